"""The keys of this deployment: where they come from, and those that lie wrapped in the database.

Unwrapped keys are remembered per process by the id and wrapped text they came from, so
that a rewrapped or replaced key is read anew.
"""

import functools
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Sequence

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Count
from django.db.models.functions import Substr

from oauthvault import datadir
from oauthvault.env import ConfigurationError
from tokens import isolation, wrapping
from tokens.encryption import Key, Keyring, generate_kek, parse_kek
from tokens.errors import EncryptionError
from tokens.models import (
    AuditBatch,
    AuditEvent,
    DataKey,
    SecondFactor,
    Tenant,
    TokenFingerprint,
    VaultKey,
)
from tokens.secret import TotpSecret
from tokens.trail import adoption

FINGERPRINTS = "fingerprints"
API_KEYS = "api keys"
AUDIT_TRAIL = "audit trail"
SECOND_FACTORS = "second factors"
_PURPOSES = (FINGERPRINTS, API_KEYS, AUDIT_TRAIL, SECOND_FACTORS)
# The KEK that a wrapped text says it opens with: v1.<12 characters>.…
_NAMED_INSIDE = Substr("wrapped", 4, 12)


def load_keyring() -> Keyring:
    """The KEKs from the environment, else from the key file. ConfigurationError without any.

    The file is read anew each time: a process that runs on finds the key that was added to
    it before anything was wrapped by that key.
    """
    given = [key.reveal() for key in settings.ENCRYPTION_KEYS]
    if not given:
        given = keys_in_file()
    return _keyring(tuple(given))


def keys_in_file() -> list[str]:
    """The KEKs of the key file, one to a line: the first wraps, the others are good for
    opening. ConfigurationError if there is no such file, or no key in it."""
    kept = datadir.read_secret_file(settings.ENCRYPTION_KEY_FILE)
    if kept is None:
        raise ConfigurationError(_why_no_key())
    return kept.split()


def check_keys() -> None:
    """Prove that the keys at hand open what the database holds, if it holds anything.

    Changes nothing at all. ConfigurationError says what is wrong.
    """
    if _something_is_sealed():
        verify_keys(load_keyring())


def prepare_keys() -> None:
    """On the first start make the keys; on every start prove that they open the database.

    A KEK that does not open what is there stops the start and changes nothing: neither a
    new key file nor a new row comes of it.
    """
    if not settings.ENCRYPTION_KEYS and not _something_is_sealed():
        datadir.read_or_create(settings.ENCRYPTION_KEY_FILE, generate_kek)
    keyring = load_keyring()
    verify_keys(keyring)
    ensure_vault_keys(keyring)
    # Somebody who started in the same moment with another key may have been first.
    verify_keys(keyring)


@isolation.every_tenant()
def ensure_vault_keys(keyring: Keyring) -> None:
    """Make the keys of the vault's own, all or none, where there are none yet. ConfigurationError
    where one is gone under which something was written: it is not replaced.

    In a transaction of their own, before anything is hashed with them: made inside another
    one, a key could be rolled back and live on in the memory of its process.
    """
    missing = _missing_vault_keys()
    if _lost(missing) and (lost := _lost(_missing_vault_keys())):
        raise ConfigurationError(
            f"the database has lost a key of the vault's own ({', '.join(lost)}), and not what was "
            "written under it: restore its row from a backup. Nothing was changed"
        )
    try:
        with transaction.atomic():
            wrapping.take_part()
            for purpose in missing:
                key, wrapped = keyring.new_key(key_id="vault", context=[purpose])
                VaultKey.objects.create(purpose=purpose, wrapped=wrapped, kek_id=keyring.primary_id)
                if purpose == AUDIT_TRAIL:
                    adoption.vouch(functools.partial(_mac, key, AUDIT_TRAIL))
    except IntegrityError:
        # Made by another process in the same moment.
        return


@isolation.every_tenant()
def verify_keys(keyring: Keyring) -> None:
    """Raise ConfigurationError unless every KEK that a key was wrapped by is at hand, and
    every key of the vault's own opens.

    A KEK is compared by its name, which is derived from the KEK itself. So a data key that
    does not open is damaged, whatever else opens: that concerns its tenant, and keeps nobody
    from starting (`damaged_data_keys`).
    """
    named = keks_named(VaultKey) + keks_named(DataKey)
    # A name that stands in one of the two places only is damage too, and no key that is missing.
    missing = sorted(
        column for column, inside in named if column == inside and column not in keyring
    )
    if missing:
        raise ConfigurationError(
            "CLAUDE_TOKEN_ENCRYPTION_KEY does not open what the database holds: "
            f"key {', '.join(missing)} is needed, "
            f"key {keyring.primary_id} is given (add the other one to {_where_fallbacks_go()}). "
            "Nothing was changed"
        )
    try:
        for row in VaultKey.objects.order_by("pk"):
            keyring.unwrap(row.wrapped, key_id="vault", context=[row.purpose])
    except EncryptionError as error:
        raise ConfigurationError(
            f"a key of the vault's own, {row.purpose!r}, does not open ({error.detail}): restore "
            "its row from a backup. Nothing was changed"
        ) from None


def keks_named(kind: type[DataKey] | type[VaultKey]) -> Counter[tuple[str, str]]:
    """How many keys name which KEK: in their column, and inside of their wrapped text."""
    rows = kind.objects.order_by().values_list("kek_id", _NAMED_INSIDE).annotate(Count("pk"))
    return Counter({(column, inside): count for column, inside, count in rows})


@isolation.every_tenant()
def damaged_data_keys() -> list[DataKey]:
    """The data keys that do not open with the keys at hand, and whose they are."""
    rows = DataKey.objects.select_related("tenant").order_by("tenant__slug", "pk")
    return [row for row in rows if not data_key_opens(row)]


def fingerprint(token_text: str) -> str:
    """The keyed fingerprint of a token: same token, same fingerprint, in this deployment only."""
    return _hash(FINGERPRINTS, token_text)


def api_key_digest(key_text: str) -> str:
    """What is stored of an API key."""
    return _hash(API_KEYS, key_text)


def audit_digest(text: str) -> str:
    """What only the vault can write under a record, or a batch, of the audit trail."""
    return _hash(AUDIT_TRAIL, text)


def recovery_code_digest(operator_id: int, code_text: str) -> str:
    """What is stored of an operator's recovery code; of another operator's it is another."""
    return _hash(SECOND_FACTORS, f"recovery code of {operator_id}: {code_text}")


def seal_second_factor(operator_id: int, secret: TotpSecret) -> str:
    """The sealed text, which opens as this operator's secret only."""
    key = _vault_key(SECOND_FACTORS)
    return key.seal(secret.reveal().encode("ascii"), context=_of_operator(operator_id))


def open_second_factor(operator_id: int, sealed: str) -> TotpSecret:
    """EncryptionError for anything that was not sealed for this operator."""
    opened = _vault_key(SECOND_FACTORS).unseal(sealed, context=_of_operator(operator_id))
    return TotpSecret(opened.decode("ascii"))


def has_key_for(purpose: str) -> bool:
    return VaultKey.objects.filter(purpose=purpose).exists()


def vault_name() -> str:
    """How the vault is called outside of its database: by a digest under the key of the ledger.
    Whoever writes the database cannot choose another name, and with that key gone the vault
    does not start (`ensure_vault_keys`)."""
    return _mac(_vault_key(FINGERPRINTS), "name of the vault", "")[:32]


def sealing_key(tenant: Tenant) -> tuple[DataKey, Key]:
    """The data key that seals for this tenant, made on first use."""
    row = DataKey.objects.filter(tenant=tenant, retired_at=None).first()
    if row is None:
        row = _first_data_key(tenant)
    return row, unwrap_data_key(row)


def still_seals(row: DataKey) -> bool:
    """Whether this is the key that seals for its tenant at this moment."""
    return DataKey.objects.filter(tenant_id=row.tenant_id, pk=row.pk, retired_at=None).exists()


def still_there(row: DataKey) -> bool:
    """Whether what is sealed under this key can be stored: it has not been destroyed."""
    return DataKey.objects.filter(tenant_id=row.tenant_id, pk=row.pk).exists()


def unwrap_data_key(row: DataKey) -> Key:
    """The data key itself. EncryptionError if it belongs to another tenant or KEK."""
    return _unwrapped(row.wrapped, row.key_id, f"tenant {row.tenant_id}")


def data_key_opens(row: DataKey) -> bool:
    """Whether it does, with the KEKs at hand."""
    try:
        unwrap_data_key(row)
    except EncryptionError:
        return False
    return True


def new_data_key(tenant: Tenant) -> DataKey:
    """A fresh data key of the tenant, wrapped by the primary KEK. IntegrityError if one that
    seals is there."""
    with transaction.atomic():
        wrapping.take_part()
        # Not read before: it could be taken away by now.
        keyring = load_keyring()
        key_id = secrets.token_hex(8)
        _, wrapped = keyring.new_key(key_id=key_id, context=[f"tenant {tenant.pk}"])
        return DataKey.objects.create(
            key_id=key_id, tenant=tenant, wrapped=wrapped, kek_id=keyring.primary_id
        )


def rewrapped(row: DataKey | VaultKey, keyring: Keyring) -> str:
    """The same key, wrapped by the primary KEK. EncryptionError if it does not open."""
    if isinstance(row, VaultKey):
        return keyring.rewrap(row.wrapped, key_id="vault", context=[row.purpose])
    return keyring.rewrap(row.wrapped, key_id=row.key_id, context=[f"tenant {row.tenant_id}"])


def _first_data_key(tenant: Tenant) -> DataKey:
    try:
        return new_data_key(tenant)
    except IntegrityError:
        # Another process made this tenant's first key in the same moment.
        return DataKey.objects.get(tenant=tenant, retired_at=None)


def _where_fallbacks_go() -> str:
    if settings.ENCRYPTION_KEYS:
        return "CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS"
    return f"{settings.ENCRYPTION_KEY_FILE}, on a line of its own"


@isolation.every_tenant()
def _something_is_sealed() -> bool:
    return VaultKey.objects.exists() or DataKey.objects.exists()


def _why_no_key() -> str:
    if _something_is_sealed():
        return (
            "the database holds tokens sealed with an encryption key that is not at hand: "
            f"{settings.ENCRYPTION_KEY_FILE} is missing and CLAUDE_TOKEN_ENCRYPTION_KEY is not "
            "set. Restore the file, or give the variable that the vault was started with"
        )
    return (
        "there is no encryption key yet: run `oauthvault init` (or `oauthvault up`), "
        "or set CLAUDE_TOKEN_ENCRYPTION_KEY"
    )


def _missing_vault_keys() -> list[str]:
    present = set(VaultKey.objects.values_list("purpose", flat=True))
    return [purpose for purpose in _PURPOSES if purpose not in present]


def _lost(missing: Sequence[str]) -> list[str]:
    """Which of these were there once. The first two came together, with the first version;
    each of the others with a later one."""
    first = {FINGERPRINTS, API_KEYS}
    used = {
        FINGERPRINTS: DataKey.objects.exists() or TokenFingerprint.objects.exists(),
        API_KEYS: DataKey.objects.exists(),
        AUDIT_TRAIL: AuditBatch.objects.exists() or AuditEvent.objects.exclude(digest="").exists(),
        SECOND_FACTORS: SecondFactor.objects.exists(),
    }
    began = used[AUDIT_TRAIL] or len(missing) < len(_PURPOSES)
    return [purpose for purpose in missing if used[purpose] or (purpose in first and began)]


def _of_operator(operator_id: int) -> list[str]:
    return [SECOND_FACTORS, f"operator {operator_id}"]


def _hash(purpose: str, text: str) -> str:
    return _mac(_vault_key(purpose), purpose, text)


def _mac(key: Key, purpose: str, text: str) -> str:
    return hmac.new(key.derive(purpose), text.encode("utf-8"), hashlib.sha256).hexdigest()


@functools.cache
def _vault_key(purpose: str) -> Key:
    keyring = load_keyring()
    row = VaultKey.objects.filter(purpose=purpose).first()
    if row is None:
        raise ConfigurationError("the vault has no keys yet: run `oauthvault init` first")
    return keyring.unwrap(row.wrapped, key_id="vault", context=[purpose])


@functools.lru_cache(maxsize=4)
def _keyring(texts: tuple[str, ...]) -> Keyring:
    materials = []
    for place, text in enumerate(texts):
        try:
            materials.append(parse_kek(text))
        except ValueError as error:
            raise ConfigurationError(
                f"{_source(place)} must be 32 bytes in base64 (openssl rand -base64 32), "
                f"but {error}"
            ) from None
    return Keyring(materials)


def _source(place: int) -> str:
    """Where the key of this place in the keyring was given."""
    if settings.ENCRYPTION_KEYS:
        variable = "CLAUDE_TOKEN_ENCRYPTION_KEY"
        return variable if place == 0 else f"{variable}_FALLBACKS (key {place})"
    return str(settings.ENCRYPTION_KEY_FILE) + (f" (key {place + 1})" if place else "")


@functools.lru_cache(maxsize=4096)
def _unwrapped(wrapped: str, key_id: str, context: str) -> Key:
    return load_keyring().unwrap(wrapped, key_id=key_id, context=[context])


def forget() -> None:
    """Drop every remembered key of this process (another database, another keyring)."""
    _vault_key.cache_clear()
    _keyring.cache_clear()
    _unwrapped.cache_clear()
