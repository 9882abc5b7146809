"""Operators' second factor: codes of an authenticator (RFC 6238), and recovery codes beside it.

The secret is sealed under a key of the vault's own, for one operator; of recovery codes only keyed
hashes are kept. A code counts once, and so does a recovery code. Codes that are wrong make the next
one wait; a recovery code, which nobody guesses, is taken all the same, so that whoever knows only
a password cannot keep an operator out.
"""

import re
import secrets
from base64 import b32decode, b32encode
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django_otp.oath import TOTP

from tokens import accounts, roles
from tokens.accounts import Verdict
from tokens.keyring import open_second_factor, recovery_code_digest, seal_second_factor
from tokens.models import RecoveryCode as StoredCode
from tokens.models import SecondFactor
from tokens.secret import RecoveryCode, TotpSecret

RECOVERY_CODES = 10
# As every authenticator has them by default (RFC 6238 section 5.2): 6 digits, each for 30 seconds.
DIGITS, STEP, _SECRET_BYTES = 6, 30, 20
# Steps that the operator's clock may be wrong by, either way.
_TOLERANCE = 1
_ISSUER = "oauthvault"
_CODE = re.compile(rf"[0-9]{{{DIGITS}}}")
# 32 signs, none of which is read for another: 16 of them are 80 random bits.
_SIGNS = "abcdefghijkmnpqrstuvwxyz23456789"
_GROUPS, _OF_A_GROUP = 4, 4


class AlreadyEnrolled(Exception):
    """There is a second factor: it is removed before another one takes its place."""


@dataclass(frozen=True)
class Enrolment:
    """A factor that waits for its first code: what to type into an authenticator, or to scan."""

    secret: TotpSecret
    uri: TotpSecret


def begin(*, operator: User) -> int:
    """Make a secret, in place of one that was not confirmed. AlreadyEnrolled if one was. The number
    by which `waiting` shows it: to whoever began it, and not to another session of the operator."""
    secret = TotpSecret(b32encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii"))
    try:
        with transaction.atomic():
            SecondFactor.objects.filter(user=operator, confirmed=False).delete()
            factor = SecondFactor.objects.create(
                user=operator,
                name="authenticator",
                confirmed=False,
                sealed_secret=seal_second_factor(operator.pk, secret),
            )
    except IntegrityError:
        raise AlreadyEnrolled from None
    return int(factor.pk)


def waiting(number: int | None, *, operator: User) -> Enrolment | None:
    """What `begin` made, until a code confirms it."""
    factor = SecondFactor.objects.filter(pk=number, user=operator, confirmed=False).first()
    if factor is None:
        return None
    secret = open_second_factor(operator.pk, factor.sealed_secret)
    return Enrolment(secret=secret, uri=_uri(operator, secret))


def confirm(*, operator: User, code: str, now: float) -> list[RecoveryCode] | None:
    """The first code of a new authenticator: from here on it is asked for at every sign-in, and
    sessions that began without it have ended. The recovery codes; None: the code is wrong."""
    with transaction.atomic():
        factor = _locked(operator, confirmed=False)
        if factor is None or not _accepts(factor, _compact(code), now):
            return None
        factor.confirmed, factor.confirmed_at = True, int(now)
        factor.save()
        actor = f"operator {operator.get_username()}"
        _record("enrol_second_factor", operator, actor, now)
        accounts.end_sessions(operator=operator, actor=actor, now=now, why="second factor is new")
        return _new_codes(operator)


def verify(*, operator: User, code: str, now: float) -> Verdict:
    """Whether this is a code of the operator's authenticator that has not been used, or one of the
    recovery codes, which is spent by it."""
    text = _compact(code)
    with transaction.atomic():
        factor = _locked(operator, confirmed=True)
        if factor is None:
            return Verdict(good=False)
        if _spend(operator, text):
            actor = f"operator {operator.get_username()}"
            _record("use_recovery_code", operator, actor, now, left=codes_left(operator))
            factor.throttle_reset()
            return Verdict(good=True, by_recovery_code=True)
        if wait := factor.wait(now=now):
            return Verdict(good=False, wait=wait)
        if _accepts(factor, text, now):
            factor.throttle_reset(commit=False)
            factor.save()
            return Verdict(good=True)
        factor.note_failure(now=now)
        name = operator.get_username()
        _record("prove_second_factor", operator, f"operator {name}", now, outcome="refused")
        return Verdict(good=False)


def is_enrolled(operator: User) -> bool:
    return factor_of(operator) is not None


def factor_of(operator: User) -> SecondFactor | None:
    """The factor that is asked for."""
    found: SecondFactor | None = SecondFactor.objects.filter(user=operator, confirmed=True).first()
    return found


def codes_left(operator: User) -> int:
    return StoredCode.objects.filter(operator=operator).count()


def new_recovery_codes(*, operator: User, now: float) -> list[RecoveryCode]:
    """In place of those that there were."""
    with transaction.atomic():
        _record("make_recovery_codes", operator, f"operator {operator.get_username()}", now)
        return _new_codes(operator)


def remove(*, operator: User, actor: str, now: float) -> bool:
    """Take the factor away, and its recovery codes; sessions of the operator have ended.
    False: there was none."""
    own = actor == f"operator {operator.get_username()}"
    with transaction.atomic():
        # Locked: one that is being confirmed in this moment is one that is asked for.
        was_asked_for = any(
            factor.confirmed
            for factor in SecondFactor.objects.select_for_update().filter(user=operator)
        )
        SecondFactor.objects.filter(user=operator).delete()
        StoredCode.objects.filter(operator=operator).delete()
        if was_asked_for:
            if own:
                _record("remove_second_factor", operator, actor, now)
            else:
                _record("reset_second_factor", operator, actor, now)
            accounts.end_sessions(
                operator=operator, actor=actor, now=now, why="second factor is gone"
            )
    return was_asked_for


def _locked(operator: User, *, confirmed: bool) -> SecondFactor | None:
    rows = SecondFactor.objects.select_for_update()
    found: SecondFactor | None = rows.filter(user=operator, confirmed=confirmed).first()
    return found


def _accepts(factor: SecondFactor, text: str, now: float) -> bool:
    """Note in the row (and leave it to the caller to save it) which step the code was of."""
    if not _CODE.fullmatch(text):
        return False
    secret = open_second_factor(factor.user_id, factor.sealed_secret)
    totp = TOTP(b32decode(secret.reveal()), step=STEP, digits=DIGITS)
    totp.time = now
    if not totp.verify(int(text), tolerance=_TOLERANCE, min_t=factor.last_step + 1):
        return False
    factor.last_step = totp.t()
    return True


def _spend(operator: User, text: str) -> bool:
    if len(text) != _GROUPS * _OF_A_GROUP:
        return False
    digest = recovery_code_digest(operator.pk, text)
    gone, _ = StoredCode.objects.filter(operator=operator, digest=digest).delete()
    return bool(gone)


def _new_codes(operator: User) -> list[RecoveryCode]:
    texts = ["".join(secrets.choice(_SIGNS) for _ in range(_GROUPS * _OF_A_GROUP))
             for _ in range(RECOVERY_CODES)]  # fmt: skip
    StoredCode.objects.filter(operator=operator).delete()
    StoredCode.objects.bulk_create(
        StoredCode(operator=operator, digest=recovery_code_digest(operator.pk, text))
        for text in texts
    )
    return [RecoveryCode(_grouped(text)) for text in texts]


def _grouped(text: str) -> str:
    groups = (text[start : start + _OF_A_GROUP] for start in range(0, len(text), _OF_A_GROUP))
    return "-".join(groups)


def _compact(text: str) -> str:
    """As people type it: with blanks, dashes and capitals."""
    return re.sub(r"[\s-]", "", text).lower()


def _uri(operator: User, secret: TotpSecret) -> TotpSecret:
    """For the QR code: https://github.com/google/google-authenticator/wiki/Key-Uri-Format."""
    label = quote(f"{_ISSUER}:{operator.get_username()}")
    given = {"secret": secret.reveal(), "issuer": _ISSUER, "digits": DIGITS, "period": STEP}
    return TotpSecret(f"otpauth://totp/{label}?{urlencode(given)}")


def _record(
    action: str, operator: User, actor: str, now: float, outcome: str = "done", **detail: object
) -> None:
    roles.record(
        action=action, subject=operator.get_username(), actor=actor, now=now, outcome=outcome,
        **detail,
    )  # fmt: skip
