"""What comes back, in the contract's words. Pure functions from what the vault said."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.utils.crypto import salted_hmac

from api.errors import InvalidRequest
from api.health import Health
from oauthvault import __version__
from tokens.diagnosis import describe_problem
from tokens.importing import ImportResult
from tokens.listing import Page
from tokens.models import OAuthCredential
from tokens.own_settings import governing
from tokens.statistics import Statistics
from tokens.vault import HandOut, Identity, Revocation

Json = dict[str, Any]

NOTHING_STORED = "No OAuth token found"
# What Anthropic wants beside an OAuth access token (facts/anthropic-oauth.md).
REQUIRED_HEADERS: Mapping[str, str] = {"anthropic-beta": "oauth-2025-04-20"}


def status(credential: OAuthCredential | None, *, user_id: str, now: float) -> Json:
    if credential is None:
        return {"authenticated": False, "user_id": user_id, "message": NOTHING_STORED}
    return stored(credential, now=now)


def stored(credential: OAuthCredential, *, now: float) -> Json:
    return {
        "authenticated": credential.is_usable(now=now),
        "user_id": credential.user_id,
        "expires_in": credential.expires_in(now=now),
        "expires_at": credential.expires_at,
        "scopes": credential.scopes,
        "is_max": credential.is_max,
        "refresh_count": credential.refresh_count,
        "auto_refresh_enabled": (credential.refreshes_ahead and credential.has_refresh_token),
        "needs_refresh": credential.needs_refresh(now=now),
        "status": credential.status(now=now).value,
        "last_used": credential.last_used,
        "last_refreshed_at": credential.last_refreshed_at,
        "login_expires_at": credential.login_expires_at,
        "problem": describe_problem(credential, now=now),
    }


def refreshed(credential: OAuthCredential, *, now: float) -> Json:
    return {"success": True, **stored(credential, now=now)}


def imported(result: ImportResult, *, now: float) -> Json:
    return {**stored(result.credential, now=now), "warnings": result.warnings}


def revoked(revocation: Revocation) -> Json:
    until = datetime.fromtimestamp(revocation.lives_until, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    told = {
        "revoked": "The authorization server has confirmed the revocation.",
        "not_configured": "The authorization server was not told: no revocation address is set.",
        "failed": "The authorization server was told and did not confirm it.",
    }[revocation.upstream]
    return {
        "success": True,
        "message": (
            f"The stored tokens are destroyed and are handed out no more. {told} An access token "
            f"that was handed out before may live until {until} ({revocation.lives_until})."
        ),
        "upstream": revocation.upstream,
    }


def token(handed_out: HandOut, *, now: float) -> Json:
    """The one answer that discloses a token."""
    return {
        "access_token": handed_out.access_token.reveal(),
        "token_type": "Bearer",
        "expires_in": max(0, handed_out.expires_at - int(now)),
        "expires_at": handed_out.expires_at,
        "generation": handed_out.generation,
        "headers": dict(REQUIRED_HEADERS),
    }


def etag(handed_out: HandOut) -> str:
    """Opaque: a keyed hash of which token of which credential this is, not of the token."""
    credential = handed_out.credential
    name = f"{credential.tenant_id}.{credential.pk}.{handed_out.generation}"
    return f'"{salted_hmac("oauthvault.etag", name, algorithm="sha256").hexdigest()[:32]}"'


def settings(credential: OAuthCredential) -> Json:
    found = governing(credential)
    return {
        "user_id": credential.user_id,
        "own": found.own,
        "effective": found.effective,
        "governed_by": found.governed_by,
    }


def identity(found: Identity) -> Json:
    return {
        "user_id": found.user_id,
        "generation": found.generation,
        "expires_at": found.expires_at,
    }


def credentials(page: Page, *, now: float) -> Json:
    return {
        "credentials": [stored(credential, now=now) for credential in page.credentials],
        "next_cursor": None if page.next_after is None else _cursor(page.next_after),
    }


def after_cursor(cursor: str | None) -> str | None:
    """The user id that a cursor of ours names. InvalidRequest for any other text."""
    if cursor is None:
        return None
    try:
        text = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("utf-8")
    except ValueError:
        text = "\0"
    if "\0" in text:  # no user's id has one, and PostgreSQL takes none
        raise InvalidRequest({"cursor": "is none that this vault gave out"})
    return text


def statistics(counted: Statistics) -> Json:
    return {
        "active_tokens": counted.active_tokens,
        "expiring_soon": counted.expiring_soon,
        "expired": counted.expired,
        "reauthorization_required": counted.reauthorization_required,
        "revoked": counted.revoked,
        "refreshes": {
            "total": counted.refreshes_succeeded + counted.refreshes_failed,
            "succeeded": counted.refreshes_succeeded,
            "failed": counted.refreshes_failed,
            "last_24h": {
                "succeeded": counted.succeeded_last_24h,
                "failed": counted.failed_last_24h,
            },
        },
        "failed_refresh_attempts": counted.refreshes_failed,
        "as_of": counted.as_of,
    }


def health(found: Health) -> Json:
    return {
        "status": found.status,
        "oauth_configured": found.oauth_configured,
        "version": __version__,
        "checks": found.checks,
    }


def _cursor(user_id: str) -> str:
    return urlsafe_b64encode(user_id.encode("utf-8")).decode("ascii").rstrip("=")
