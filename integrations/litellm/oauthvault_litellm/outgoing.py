"""Where a token may go, and how it gets there: the request as LiteLLM is about to send it."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from oauthvault_litellm.secret import Secret

PROVIDER = "anthropic"
OAUTH_BETA = "oauth-2025-04-20"
OAUTH_PREFIX = "sk-ant-oat"
_CREDENTIALS = ("authorization", "x-api-key")


def is_allowed(address: str, allowed_hosts: frozenset[str]) -> bool:
    """Whether the host of an address is one that may see a token. Any port; no guessing."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host = parts.hostname
    except ValueError:
        return False
    # Characters on which URL parsers disagree would make the host checked another than the host
    # connected to.
    if host is None or "\\" in address or any(c.isspace() for c in address) or "@" in parts.netloc:
        return False
    return host.lower().rstrip(".") in allowed_hosts


def is_oauth_token(token: Secret) -> bool:
    """Whether LiteLLM will take it for one. Any other it sends beside the deployment's API key."""
    return token.reveal().startswith(OAUTH_PREFIX)


def with_token(
    kwargs: Mapping[str, Any], token: Secret, headers: Mapping[str, str]
) -> dict[str, Any]:
    """The call with this token as its only credential, addressed to Anthropic alone.

    What the client asked for otherwise stays: its own ``anthropic-beta`` values are merged with
    the ones an OAuth token needs. The token stands in an entry that LiteLLM applies to provider
    ``anthropic`` only, so a fallback to another provider does not take it along.
    """
    changed = dict(kwargs)
    betas: list[str] = []
    for name in ("headers", "extra_headers"):
        if isinstance(kwargs.get(name), Mapping):
            betas += betas_in(kwargs[name])
            changed[name] = _without_credentials(kwargs[name])
    entries = _entries(kwargs.get("provider_specific_header"))
    for entry in entries:
        if PROVIDER in (p.strip() for p in str(entry.get("custom_llm_provider", "")).split(",")):
            betas += betas_in(entry.get("extra_headers") or {})
            entry["extra_headers"] = _without_credentials(entry.get("extra_headers") or {})
    changed["provider_specific_header"] = [
        *entries,
        {
            "custom_llm_provider": PROVIDER,
            "extra_headers": credential_headers(token, headers, betas=betas),
        },
    ]
    return changed


def credential_headers(
    token: Secret, headers: Mapping[str, str], *, betas: Iterable[str] = ()
) -> dict[str, str]:
    """What Anthropic is sent with this token: `headers` are the vault's, `betas` the client's."""
    carried = {k: v for k, v in headers.items() if k.lower() not in (*_CREDENTIALS, _BETA)}
    carried[_BETA] = ",".join(dict.fromkeys([*betas, *betas_in(headers), OAUTH_BETA]))
    carried["authorization"] = f"Bearer {token.reveal()}"
    return carried


def carried_token(kwargs: Mapping[str, Any]) -> Secret | None:
    """The token that :func:`with_token` put into this call."""
    for entry in reversed(_entries(kwargs.get("provider_specific_header"))):
        if entry.get("custom_llm_provider") == PROVIDER:
            value = (entry.get("extra_headers") or {}).get("authorization", "")
            return Secret(value.removeprefix("Bearer ")) if value else None
    return None


def api_key_headers(key: Secret) -> dict[str, str]:
    """What Anthropic is sent with an API key, where that serves instead of a token."""
    return {"x-api-key": key.reveal()}


def betas_in(headers: Mapping[str, Any]) -> list[str]:
    """The values of every ``anthropic-beta`` among these headers."""
    return [
        beta.strip()
        for name, value in headers.items()
        if name.lower() == _BETA and isinstance(value, str)
        for beta in value.split(",")
        if beta.strip()
    ]


_BETA = "anthropic-beta"


def _entries(given: Any) -> list[dict[str, Any]]:
    """LiteLLM keeps one entry as itself and several as a list. Copies, so that nothing shared
    between requests or attempts is changed."""
    if given is None:
        return []
    several: Iterable[Mapping[str, Any]] = [given] if isinstance(given, Mapping) else given
    return [dict(entry) for entry in several]


def _without_credentials(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in headers.items() if k.lower() not in _CREDENTIALS}
