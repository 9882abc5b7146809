"""An operator's authenticator and recovery codes: what counts, how often, and where it is kept."""

import base64
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from pytest_django import Settings

from oauthvault.env import ConfigurationError
from tests.admin.authenticator import Authenticator, enrolled, let_pass
from tokens import clock, isolation, keyring, second_factor
from tokens.errors import EncryptionError
from tokens.models import AuditEvent, RecoveryCode, SecondFactor, VaultKey
from tokens.models.account import MOST_FAILURES_COUNTED
from tokens.rotation.keks import kek_uses, rewrap_all
from tokens.secret import EncryptionKey, TotpSecret

pytestmark = pytest.mark.django_db


def verified(operator: User, code: str) -> bool:
    return second_factor.verify(operator=operator, code=code, now=clock.now()).good


@pytest.mark.django_db(transaction=True)
def test_of_many_who_show_a_code_in_one_moment_one_is_let_in(
    olivia: User, settings: Settings
) -> None:
    phone, codes = enrolled(olivia)
    let_pass(settings, 60)

    def show(code: str) -> bool:
        try:
            with isolation.every_tenant():
                return verified(olivia, code)
        finally:
            connection.close()

    for code in (phone.code(), codes[0]):
        with ThreadPoolExecutor(4) as crowd:
            assert sum(crowd.map(show, [code] * 4)) == 1


@pytest.mark.parametrize(
    ("at", "code"),
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_the_codes_are_those_of_rfc_6238(olivia: User, at: int, code: str) -> None:
    """Its appendix B, of which the last six digits are ours."""
    secret = base64.b32encode(b"12345678901234567890").decode()
    sealed = keyring.seal_second_factor(olivia.pk, TotpSecret(secret))
    SecondFactor.objects.create(user=olivia, name="x", sealed_secret=sealed)
    assert second_factor.verify(operator=olivia, code=code, now=at).good
    assert Authenticator(secret).code(at=at) == code


def test_a_code_counts_once_and_none_counts_after_a_later_one(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    let_pass(settings, 60)
    now = clock.now()
    earlier, code = phone.code(at=now - 30), phone.code(at=now)
    assert verified(olivia, code)
    assert not verified(olivia, code)
    let_pass(settings, 5)
    assert not verified(olivia, earlier)


def test_a_code_is_good_for_a_clock_that_is_half_a_minute_wrong_and_no_more(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    let_pass(settings, 300)
    assert not verified(olivia, phone.code(at=clock.now() - 60))
    let_pass(settings, 300)
    assert not verified(olivia, phone.code(at=clock.now() + 60))
    let_pass(settings, 300)
    assert verified(olivia, phone.code(at=clock.now() + 30))


def test_wrong_codes_wait_longer_and_longer_and_so_does_the_right_one(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    waits = []
    for _ in range(MOST_FAILURES_COUNTED + 3):
        assert not verified(olivia, phone.wrong_code())
        verdict = second_factor.verify(operator=olivia, code=phone.code(), now=clock.now())
        assert not verdict.good
        waits.append(round(verdict.wait))
        let_pass(settings, waits[-1] + 1)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 512, 512, 512]
    let_pass(settings, 31)
    assert verified(olivia, phone.code())
    refused = AuditEvent.objects.filter(action="prove_second_factor", outcome="refused")
    assert refused.count() == MOST_FAILURES_COUNTED + 3


def test_a_recovery_code_lets_in_while_codes_wait_and_only_once(olivia: User) -> None:
    """Or whoever has a password alone could keep its operator out."""
    phone, codes = enrolled(olivia)
    for _ in range(3):
        verified(olivia, phone.wrong_code())
    verdict = second_factor.verify(
        operator=olivia, code=f" {codes[0].upper().replace('-', ' ')} ", now=clock.now()
    )
    assert verdict.good
    assert verdict.by_recovery_code
    assert not verified(olivia, codes[0])
    assert second_factor.codes_left(olivia) == len(codes) - 1 == second_factor.RECOVERY_CODES - 1
    event = AuditEvent.objects.get(action="use_recovery_code")
    assert (event.actor, event.detail) == ("operator olivia", {"left": 9})


def test_a_recovery_code_is_its_operators_alone(olivia: User) -> None:
    bob = User.objects.create_superuser("bob", password="x")
    _, codes = enrolled(olivia)
    enrolled(bob)
    assert not verified(bob, codes[0])
    assert verified(olivia, codes[0])


def test_new_recovery_codes_take_the_place_of_the_old_ones(olivia: User) -> None:
    _, old = enrolled(olivia)
    new = second_factor.new_recovery_codes(operator=olivia, now=clock.now())
    assert len({code.reveal() for code in new} | set(old)) == 20
    assert not verified(olivia, old[0])
    assert verified(olivia, new[0].reveal())


def test_neither_the_secret_nor_a_recovery_code_is_kept_in_the_open(olivia: User) -> None:
    waiting = second_factor.waiting(second_factor.begin(operator=olivia), operator=olivia)
    assert waiting is not None
    secret = waiting.secret.reveal()
    now = time.time()
    codes = second_factor.confirm(operator=olivia, code=Authenticator(secret).code(at=now), now=now)
    assert codes is not None
    kept = str([*SecondFactor.objects.values(), *RecoveryCode.objects.values(),
                *AuditEvent.objects.values()])  # fmt: skip
    for text in (secret, base64.b32decode(secret).hex(), *(code.reveal() for code in codes)):
        assert text not in kept
        assert text.replace("-", "") not in kept
    assert secret not in repr(waiting)


def test_a_secret_that_is_moved_to_another_operator_does_not_open(
    olivia: User, phone: Authenticator
) -> None:
    bob = User.objects.create_superuser("bob", password="x")
    SecondFactor.objects.filter(user=olivia).update(user=bob)
    with pytest.raises(EncryptionError):
        verified(bob, phone.code(at=clock.now() + 30))


def test_what_was_not_confirmed_is_asked_of_nobody_and_can_be_begun_again(olivia: User) -> None:
    number = second_factor.begin(operator=olivia)
    first = second_factor.waiting(number, operator=olivia)
    again = second_factor.waiting(second_factor.begin(operator=olivia), operator=olivia)
    assert second_factor.waiting(number, operator=olivia) is None
    assert first is not None
    assert again is not None
    assert first.secret != again.secret
    assert not second_factor.is_enrolled(olivia)
    code = Authenticator(first.secret.reveal()).code()
    assert second_factor.confirm(operator=olivia, code=code, now=clock.now()) is None


def test_a_factor_is_not_replaced_by_beginning_another(olivia: User, phone: Authenticator) -> None:
    with pytest.raises(second_factor.AlreadyEnrolled):
        second_factor.begin(operator=olivia)
    assert not SecondFactor.objects.filter(confirmed=False).exists()
    assert verified(olivia, phone.code(at=clock.now() + 30))


def test_a_rotation_of_the_encryption_key_takes_the_factors_along(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    """The old key is needed until then, and nothing needs it afterwards."""
    old = settings.ENCRYPTION_KEYS[0]
    new = EncryptionKey(base64.b64encode(os.urandom(32)).decode())
    VaultKey.objects.exclude(purpose=keyring.SECOND_FACTORS).delete()
    settings.ENCRYPTION_KEYS = [new, old]
    keyring.forget()
    ring = keyring.load_keyring()
    assert [use.state for use in kek_uses(ring)] == ["primary", "needed"]
    assert rewrap_all(ring, actor="test", now=clock.now()) == 1
    assert [use.state for use in kek_uses(ring)] == ["primary", "removable"]
    settings.ENCRYPTION_KEYS = [new]
    keyring.forget()
    factor = SecondFactor.objects.get(user=olivia)
    assert keyring.open_second_factor(olivia.pk, factor.sealed_secret).reveal()


def test_the_key_of_the_factors_is_made_where_there_is_none_and_missed_where_one_was(
    olivia: User,
) -> None:
    """A vault from before has none; one with factors in it has lost it, and is not started."""
    VaultKey.objects.filter(purpose=keyring.SECOND_FACTORS).delete()
    keyring.forget()
    keyring.ensure_vault_keys(keyring.load_keyring())
    assert VaultKey.objects.filter(purpose=keyring.SECOND_FACTORS).exists()
    enrolled(olivia)
    VaultKey.objects.filter(purpose=keyring.SECOND_FACTORS).delete()
    with pytest.raises(ConfigurationError, match="second factors"):
        keyring.ensure_vault_keys(keyring.load_keyring())


def test_the_terminal_takes_a_factor_away_and_writes_it_down(
    olivia: User, phone: Authenticator, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("reset_second_factor", "olivia")
    assert "olivia has no second factor any more" in capsys.readouterr().out
    assert not SecondFactor.objects.exists()
    assert not RecoveryCode.objects.exists()
    event = AuditEvent.objects.get(action="reset_second_factor")
    assert event.subject == "olivia"
    assert event.actor.startswith("command line")
    call_command("reset_second_factor", "olivia")
    assert "had no second factor. Nothing was changed." in capsys.readouterr().out
    assert AuditEvent.objects.filter(action="reset_second_factor").count() == 1


def test_the_terminal_says_so_if_there_is_no_such_operator() -> None:
    with pytest.raises(CommandError, match="no operator 'nobody'"):
        call_command("reset_second_factor", "nobody", stderr=io.StringIO())
