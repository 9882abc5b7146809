"""What the vault says: is it one, does it take the key, and does it mean the same users.

The key's scopes are found by requests that the vault refuses either way: they have a field that
it does not know and name a user whom nobody has. A key without the scope is refused before that
(403 ``insufficient_scope``), so nothing is handed out, refreshed or revoked.
"""

import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from oauthvault_litellm import __version__
from oauthvault_litellm.doctor.finding import Finding, ok, warning, wrong
from oauthvault_litellm.identity import DEFAULT_USER
from oauthvault_litellm.settings import Settings, SettingsError
from oauthvault_litellm.trust import certificate_authorities

_PATIENCE = httpx.Timeout(15.0, connect=3.0)
# Seconds that the clocks may differ. A token is not used in the last five seconds of its life.
_UNNOTICED = 5
_HARMFUL = 60

# For each scope: a request that needs it, and what is missing without it.
_SCOPES = {
    "token:read": ("GET", "token", "no request gets a token"),
    "token:write": ("PUT", "token", "nobody can store a credential through the proxy"),
    "token:refresh": ("POST", "refresh", "POST /auth/claude/refresh is refused"),
    "token:revoke": ("DELETE", "revoke", "DELETE /auth/claude/revoke is refused"),
    "token:identify": ("POST", "token/identify", "direct bearer knows nobody's token"),
    "status:read": ("GET", "status", "GET /auth/claude/status is refused"),
    "stats:read": ("GET", "stats", "GET /auth/claude/stats is refused"),
}


def findings(settings: Settings, *, direct_bearer: bool) -> Iterator[Finding]:
    """`settings` are enabled ones, so they have a key."""
    assert settings.vault_key is not None  # noqa: S101
    try:
        authorities = certificate_authorities()
    except SettingsError as error:
        yield wrong("vault", str(error))
        return
    with httpx.Client(
        base_url=settings.vault_url,
        headers={"Authorization": f"Bearer {settings.vault_key.reveal()}"},
        timeout=_PATIENCE,
        # The key goes to the address in the settings and nowhere else.
        follow_redirects=False,
        trust_env=False,
        verify=authorities,
    ) as http:
        try:
            yield from _look(http, settings, direct_bearer=direct_bearer)
        except httpx.HTTPError as error:
            yield wrong("vault", _why_no_answer(error, _shown(settings.vault_url)))


def _look(http: httpx.Client, settings: Settings, *, direct_bearer: bool) -> Iterator[Finding]:
    asked_at = time.time()
    answer = http.get("/auth/claude/health")
    answered_at = time.time()
    health = _json(answer)
    if not {"status", "oauth_configured", "checks"} <= set(health):
        yield wrong("vault", _no_vault(answer, _shown(settings.vault_url)))
        return
    yield _health(health, _shown(settings.vault_url))
    yield _version(str(health.get("version")))
    yield from _clock(answer, asked_at, answered_at)
    status = http.get("/auth/claude/status")
    refused = _why_the_key_is_refused(status)
    if refused is not None:
        yield refused
        return
    yield _scopes(http, settings, direct_bearer=direct_bearer)
    yield from _kind(status, settings)
    yield from _credentials(http, status, settings)


def _health(health: Mapping[str, Any], where: str) -> Finding:
    checks = health["checks"] if isinstance(health["checks"], Mapping) else {}
    troubles = "; ".join(f"{part}: {says}" for part, says in checks.items() if says != "ok")
    if health["status"] == "healthy":
        return ok("vault", f"at {where}, healthy")
    if health["status"] == "degraded":
        return warning("vault", f"at {where}, degraded: {troubles}")
    return wrong("vault", f"at {where}, {health['status']}: {troubles}")


def _version(version: str) -> Finding:
    if version == __version__:
        return ok("release", f"vault and hook are both {version}")
    return warning(
        "release",
        f"the vault is {version} and the hook {__version__}: they are tested in one release only",
    )


def _clock(answer: httpx.Response, asked_at: float, answered_at: float) -> Iterator[Finding]:
    """Expiry is told in Unix seconds, and compared with the clock of this machine."""
    try:
        there = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
    except (ValueError, TypeError):
        return
    # The header counts whole seconds, and was written at some time in between.
    behind, ahead = there - answered_at, asked_at - (there + 1)
    apart = max(behind, ahead, 0)
    detail = f"this machine's clock is {apart:.0f} s {'ahead of' if ahead > 0 else 'behind'} the "
    detail += "vault's: set both by NTP"
    if apart > _HARMFUL:
        yield wrong("clock", f"{detail}, or tokens are taken for dead or for living")
    elif apart > _UNNOTICED:
        yield warning("clock", detail)
    else:
        yield ok("clock", "agrees with the vault's")


def _why_the_key_is_refused(status: httpx.Response) -> Finding | None:
    code = _code(status)
    if code == "invalid_key":
        return wrong(
            "key",
            "the vault does not accept it: unknown, ended, revoked, or not to be used from this "
            "machine's address. `oauthvault list_keys` shows it, `oauthvault create_key TENANT` "
            "makes another",
        )
    if code == "tenant_suspended":
        return wrong("key", "its tenant is suspended: `oauthvault resume` ends that")
    if code in ("rate_limited", "unavailable") or status.status_code in (429, 503):
        return warning("key", "the vault has no time to say whether it accepts it: ask again later")
    if status.is_success or code in ("user_required", "insufficient_scope"):
        return None
    return wrong("key", f"the vault answered {status.status_code} where its status was asked for")


def _scopes(http: httpx.Client, settings: Settings, *, direct_bearer: bool) -> Finding:
    nobody = {"X-OAuthVault-User": f"doctor-{uuid.uuid4()}"}
    missing = {}
    for scope, (method, name, without) in _SCOPES.items():
        answer = http.request(
            method, f"/auth/claude/{name}", params={"doctor": "1"}, headers=nobody
        )
        if _code(answer) == "insufficient_scope":
            missing[scope] = without
    if not direct_bearer:
        missing.pop("token:identify", None)
    if not missing:
        return ok("key", "the vault accepts it, for everything that the hook does")
    needed = {"token:read", "token:identify"}
    if settings.offered is not None and not settings.multi_user:
        needed.add("token:write")
    lacking = "; ".join(f"{scope}: {without}" for scope, without in missing.items())
    say = wrong if needed & set(missing) else warning
    return say("key", f"lacks scopes. {lacking}. `oauthvault create_key` makes one with all")


def _kind(status: httpx.Response, settings: Settings) -> Iterator[Finding]:
    """Whether the key's tenant has one user or many; said only where it can be seen."""
    if status.is_success and settings.multi_user:
        yield warning(
            "tenant",
            "has a user 'default', whom nobody is under multi_user: `oauthvault change_tenant "
            "TENANT --no-default-user`, or a key of a tenant of many users",
        )
    elif _code(status) == "user_required" and not settings.multi_user:
        yield wrong(
            "tenant",
            "the key's tenant has many users, and without multi_user every request is of user "
            "'default', whom it refuses: switch multi_user on, or use a key of tenant default",
        )
    elif status.is_success or _code(status) == "user_required":
        yield ok("tenant", "has many users" if settings.multi_user else "has a user 'default'")


def _credentials(
    http: httpx.Client, status: httpx.Response, settings: Settings
) -> Iterator[Finding]:
    if settings.multi_user:
        statistics = _json(http.get("/auth/claude/stats"))
        if statistics.get("active_tokens") == 0:
            yield warning(
                "credentials",
                "nobody has one that can be used yet: every user stores their own with "
                "PUT /auth/claude/token on the proxy, or `oauthvault import_credentials`",
            )
        elif "active_tokens" in statistics:
            yield ok("credentials", f"{statistics['active_tokens']} can be used")
        return
    if not status.is_success:
        return
    yield _shared_credential(_json(status), settings)


def _shared_credential(found: Mapping[str, Any], settings: Settings) -> Finding:
    problem = str(found.get("problem") or "")
    if found.get("authenticated") is True:
        if problem:
            return warning("credentials", f"user {DEFAULT_USER!r}: {problem}")
        ends = datetime.fromtimestamp(int(found.get("expires_at") or 0)).astimezone()
        return ok("credentials", f"user {DEFAULT_USER!r} has one, good until {ends:%Y-%m-%d %H:%M}")
    if "status" in found:
        return wrong("credentials", f"user {DEFAULT_USER!r}: {found['status']}. {problem}".strip())
    if settings.offered is not None:
        return ok(
            "credentials",
            "the vault knows none of user 'default' yet: it is given the tokens of the block with "
            "the first request",
        )
    return wrong(
        "credentials",
        "No OAuth token found for user 'default': store one with PUT /auth/claude/token or "
        "`oauthvault import_credentials`, or set CLAUDE_ACCESS_TOKEN, CLAUDE_REFRESH_TOKEN and "
        "CLAUDE_EXPIRES_AT where the block names them",
    )


def _why_no_answer(error: httpx.HTTPError, where: str) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"{where} shows a certificate that is not trusted: the hook knows the public "
                "authorities (certifi) and no others"
            )
        cause = cause.__cause__ or cause.__context__
    return (
        f"{where} does not answer ({type(error).__name__}): does the vault run there, and may this "
        "machine reach it? The address is claude_oauth.vault_url or OAUTHVAULT_URL"
    )


def _no_vault(answer: httpx.Response, where: str) -> str:
    if answer.is_redirect:
        to = _shown(answer.headers.get("Location", ""))
        return f"{where} sends us on to {to}, where no key goes unasked: set vault_url to the end"
    return (
        f"something other than a vault answers at {where} ({answer.status_code}): the address is "
        "claude_oauth.vault_url or OAUTHVAULT_URL"
    )


def _shown(address: str) -> str:
    """Scheme, host and port: an address may have a password in it."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{quote(host or '', safe='[]:.-_')}{port}"


def _json(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _code(answer: httpx.Response) -> str:
    return "" if answer.is_success else str(_json(answer).get("code"))
