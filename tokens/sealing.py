"""The only place where a credential's sealed columns are written and opened."""

from dataclasses import dataclass

from tokens import isolation
from tokens.encryption import Key
from tokens.errors import EncryptionError
from tokens.keyring import fingerprint, sealing_key, unwrap_data_key
from tokens.models import (
    DataKey,
    OAuthCredential,
    Tenant,
    TokenFingerprint,
    TokenKind,
)
from tokens.secret import AccessToken, RefreshToken, Secret


@dataclass(frozen=True)
class SealedPair:
    """Column values for one credential, and for no other."""

    data_key: DataKey
    access_token_encrypted: str
    refresh_token_encrypted: str | None


def seal_pair(
    *,
    tenant: Tenant,
    credential_id: int,
    access_token: AccessToken,
    refresh_token: RefreshToken | None,
    under: tuple[DataKey, Key] | None = None,
) -> SealedPair:
    """Seal both tokens under the tenant's data key, each for exactly its own column.

    ``under``: the key, where it was taken before, because afterwards would be too late.
    """
    row, key = under or sealing_key(tenant)

    def seal(token: Secret, field: str) -> str:
        return key.seal(
            token.reveal().encode("utf-8"), context=_context(tenant.pk, credential_id, field)
        )

    return SealedPair(
        data_key=row,
        access_token_encrypted=seal(access_token, "access_token"),
        refresh_token_encrypted=(
            None if refresh_token is None else seal(refresh_token, "refresh_token")
        ),
    )


def open_access_token(credential: OAuthCredential) -> AccessToken:
    """The access token. EncryptionError if it does not open, or there is none."""
    return AccessToken(_open(credential, credential.access_token_encrypted, "access_token"))


def open_refresh_token(credential: OAuthCredential) -> RefreshToken:
    """The refresh token. EncryptionError if it does not open, or there is none."""
    return RefreshToken(_open(credential, credential.refresh_token_encrypted, "refresh_token"))


def open_pair(
    pair: SealedPair, *, tenant_id: int, credential_id: int
) -> tuple[AccessToken, RefreshToken]:
    """Both tokens of a pair that was sealed for this credential and has not reached its row.
    EncryptionError if they do not open, or there is no refresh token."""
    if pair.refresh_token_encrypted is None or pair.data_key.tenant_id != tenant_id:
        raise EncryptionError("not a pair of this tenant")
    key = unwrap_data_key(pair.data_key)

    def unseal(sealed: str, field: str) -> str:
        opened = key.unseal(sealed, context=_context(tenant_id, credential_id, field))
        return opened.decode("utf-8")

    return (
        AccessToken(unseal(pair.access_token_encrypted, "access_token")),
        RefreshToken(unseal(pair.refresh_token_encrypted, "refresh_token")),
    )


def seal_account(address: str, *, key: Key, tenant_id: int, credential_id: int) -> str:
    """The e-mail address of the account behind a pair, for where the pair itself lies sealed."""
    return key.seal(address.encode("utf-8"), context=_context(tenant_id, credential_id, "account"))


def open_account(sealed: str, *, data_key: DataKey, tenant_id: int, credential_id: int) -> str:
    """The address. EncryptionError if it does not open."""
    if data_key.tenant_id != tenant_id:
        raise EncryptionError("sealed under another tenant's data key")
    key = unwrap_data_key(data_key)
    return key.unseal(sealed, context=_context(tenant_id, credential_id, "account")).decode("utf-8")


def opens(credential: OAuthCredential) -> bool:
    """Whether everything that is sealed in this row opens."""
    try:
        open_access_token(credential)
        if credential.has_refresh_token:
            open_refresh_token(credential)
    except EncryptionError:
        return False
    return True


def seal_again(credential: OAuthCredential, *, under: tuple[DataKey, Key]) -> SealedPair:
    """What the credential holds, sealed under another data key of its tenant.
    EncryptionError if it does not open."""
    refresh_token = open_refresh_token(credential) if credential.has_refresh_token else None
    return seal_pair(
        tenant=credential.tenant,
        credential_id=credential.pk,
        access_token=open_access_token(credential),
        refresh_token=refresh_token,
        under=under,
    )


def exchange(credential: OAuthCredential, pair: SealedPair) -> bool:
    """Put ``pair`` in place of exactly what ``credential`` was read with. False: the row is
    another one by now (refreshed, imported, revoked, sealed again), and was left alone."""
    return bool(
        OAuthCredential.objects.filter(
            tenant_id=credential.tenant_id,
            pk=credential.pk,
            generation=credential.generation,
            data_key_id=credential.data_key_id,
            access_token_encrypted=credential.access_token_encrypted,
            refresh_token_encrypted=credential.refresh_token_encrypted,
        ).update(
            data_key=pair.data_key,
            access_token_encrypted=pair.access_token_encrypted,
            refresh_token_encrypted=pair.refresh_token_encrypted,
        )
    )


def record_fingerprints(
    *,
    credential: OAuthCredential,
    access_token: AccessToken,
    refresh_token: RefreshToken | None,
    generation: int,
    now: float,
) -> None:
    """Enter the pair into the ledger as the one held now; what was held before is spent.

    IntegrityError if another credential holds, or held, this refresh token.
    """
    held = {fingerprint(access_token.reveal()): TokenKind.ACCESS}
    if refresh_token is not None:
        # Last: where one token is both, it is listed as what must not be spent twice.
        held[fingerprint(refresh_token.reveal())] = TokenKind.REFRESH
    ledger = TokenFingerprint.objects.filter(tenant_id=credential.tenant_id, credential=credential)
    ledger.filter(retired_at=None).exclude(digest__in=held).update(retired_at=int(now))
    listed = set(ledger.filter(digest__in=held).values_list("digest", flat=True))
    # A pair that comes back (the server kept the old refresh token) is held again.
    ledger.filter(digest__in=listed).update(retired_at=None, generation=generation)
    TokenFingerprint.objects.bulk_create(
        TokenFingerprint(
            tenant_id=credential.tenant_id,
            credential=credential,
            kind=kind,
            digest=digest,
            generation=generation,
        )
        for digest, kind in held.items()
        if digest not in listed
    )


def are_anothers(credential: OAuthCredential, *tokens: Secret | None) -> bool:
    """Whether the ledger lists one of these tokens for another credential, of whichever
    tenant: one that it holds, or has held. Says nothing but yes or no."""
    digests = [fingerprint(token.reveal()) for token in tokens if token is not None]
    with isolation.every_tenant():
        return (
            TokenFingerprint.objects.filter(digest__in=digests)
            .exclude(credential_id=credential.pk)
            .exists()
        )


def is_held(credential: OAuthCredential, token: Secret) -> bool:
    """Whether the ledger says that the credential holds this token now."""
    return TokenFingerprint.objects.filter(
        tenant_id=credential.tenant_id,
        credential=credential,
        digest=fingerprint(token.reveal()),
        retired_at=None,
    ).exists()


def retire_fingerprints(
    credential: OAuthCredential, *, kind: TokenKind | None = None, now: float
) -> None:
    """Everything the credential held, or all of that ``kind``, is spent."""
    held = TokenFingerprint.objects.filter(
        tenant_id=credential.tenant_id, credential=credential, retired_at=None
    )
    if kind is not None:
        held = held.filter(kind=kind)
    held.update(retired_at=int(now))


def _open(credential: OAuthCredential, sealed: str | None, field: str) -> str:
    if sealed is None or credential.data_key is None:
        raise EncryptionError("there is nothing sealed here")
    if credential.data_key.tenant_id != credential.tenant_id:
        raise EncryptionError("sealed under another tenant's data key")
    key = unwrap_data_key(credential.data_key)
    return key.unseal(sealed, context=_context(credential.tenant_id, credential.pk, field)).decode(
        "utf-8"
    )


def _context(tenant_id: int, credential_id: int, field: str) -> list[str]:
    return [f"tenant {tenant_id}", f"credential {credential_id}", field]
