"""Where a token may go, and how it gets there: the request as LiteLLM is about to send it."""

import ipaddress
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, Self
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from oauthvault_litellm.secret import Secret

PROVIDER = "anthropic"
OAUTH_BETA = "oauth-2025-04-20"
OAUTH_PREFIX = "sk-ant-oat"
MASK = f"Bearer {OAUTH_PREFIX}01-****"


def is_allowed(address: str, allowed_hosts: frozenset[str]) -> bool:
    """Whether the host of an address is one that may see a token. Any port; no guessing.

    LiteLLM lets the path end in ``/v1/messages``. A query would let that be said of a path that
    leads to something else, such as where a token buys an API key.
    """
    parts = _parts(address)
    host = parts.hostname if parts is not None else None
    return host is not None and host.lower().rstrip(".") in allowed_hosts


def is_private(address: str) -> bool:
    """Whether nobody on the way reads what is sent there: https, or it stays on this machine.

    A proxy of the environment (HTTP_PROXY) reads plain http, wherever it goes.
    """
    parts = _parts(address)
    if parts is None or parts.hostname is None:
        return False
    if parts.scheme.lower() in ("https", ""):  # without a scheme LiteLLM's client sends nothing
        return True
    if parts.scheme.lower() != "http" or not _is_loopback(parts.hostname):
        return False
    return not _passes_a_proxy(parts.hostname)


def _parts(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        _ = parts.hostname
    except ValueError:
        return None
    # Characters on which URL parsers disagree would make the host checked another than the host
    # connected to.
    if set(address) & set("\\?#") or any(c.isspace() for c in address) or "@" in parts.netloc:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=64)  # the environment is the process's: LiteLLM too looks at it once for a host
def _passes_a_proxy(host: str) -> bool:
    proxies = getproxies()
    return ("http" in proxies or "all" in proxies) and not proxy_bypass(host)


def is_oauth_token(token: Secret) -> bool:
    """Whether LiteLLM will take it for one. Any other it sends beside the deployment's API key."""
    return token.reveal().startswith(OAUTH_PREFIX)


class Bearer(str):
    """The value of an ``Authorization`` header. As text it is a mask.

    LiteLLM keeps headers among the arguments of a call, which callbacks are shown, and copies and
    logs them. The token comes out in two places only: httpx asks for the bytes of a header, and
    LiteLLM's chat completions take the scheme off before they write the header themselves. Read in
    any other way it is the mask that goes upstream, and upstream answers 401: nothing leaks.
    """

    __slots__ = ("_token",)
    _token: Secret

    def __new__(cls, token: Secret) -> Self:
        self = super().__new__(cls, MASK)
        self._token = token
        return self

    @property
    def token(self) -> Secret:
        return self._token

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return f"Bearer {self._token.reveal()}".encode(encoding, errors)

    def removeprefix(self, prefix: str, /) -> str:
        return self._token.reveal() if prefix == "Bearer " else super().removeprefix(prefix)

    # As for Secret: LiteLLM copies request data freely, and a pickle would be the plaintext.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Bearer is not serialised")


def with_token(
    kwargs: Mapping[str, Any], token: Secret, headers: Mapping[str, str]
) -> dict[str, Any]:
    """The call with this token as its only credential, addressed to Anthropic alone.

    What the client asked for otherwise stays: its own ``anthropic-beta`` values are merged with
    the ones an OAuth token needs. The token stands in an entry that LiteLLM applies to provider
    ``anthropic`` only, so a fallback to another provider does not take it along.
    """
    changed = without_token(kwargs)
    betas: list[str] = []
    for name in ("headers", "extra_headers"):
        if isinstance(kwargs.get(name), Mapping):
            betas += betas_in(kwargs[name])
            changed[name] = _harmless(kwargs[name])
    entries = _entries(changed.get("provider_specific_header"))
    for entry in entries:
        if PROVIDER in (p.strip() for p in str(entry.get("custom_llm_provider", "")).split(",")):
            betas += betas_in(entry.get("extra_headers") or {})
            entry["extra_headers"] = _harmless(entry.get("extra_headers") or {})
    changed["provider_specific_header"] = [
        *entries,
        {
            "custom_llm_provider": PROVIDER,
            "extra_headers": credential_headers(token, headers, betas=betas),
        },
    ]
    if changed.get("api_key"):
        # The deployment's, or one of the client's: neither stands beside a token.
        changed["api_key"] = None
    return changed


def without_token(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The call as it was before :func:`with_token`: LiteLLM starts some attempts, such as a
    fallback to another provider, from the arguments of the attempt before."""
    changed = dict(kwargs)
    given = kwargs.get("provider_specific_header")
    entries = _entries(given)
    kept = [entry for entry in entries if _bearer(entry) is None]
    if len(kept) != len(entries):
        changed["provider_specific_header"] = kept or None
    return changed


def credential_headers(
    token: Secret, headers: Mapping[str, str], *, betas: Iterable[str] = ()
) -> dict[str, str]:
    """What Anthropic is sent with this token: `headers` are the vault's, `betas` the client's."""
    carried = {k: v for k, v in _harmless(headers).items() if k.lower() != _BETA}
    carried[_BETA] = ",".join(dict.fromkeys([*betas, *betas_in(headers), OAUTH_BETA]))
    carried["authorization"] = Bearer(token)
    return carried


def carried_token(kwargs: Mapping[str, Any]) -> Secret | None:
    """The token that :func:`with_token` put into this call."""
    for entry in reversed(_entries(kwargs.get("provider_specific_header"))):
        if (bearer := _bearer(entry)) is not None:
            return bearer.token
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

# Who is asking, which host answers and where a request ends are not for others to say. `host`
# would let a client name another customer of the same content delivery network. A browser's own
# headers make Anthropic refuse a request with 401, which says nothing about the token.
_OURS = frozenset(
    {
        "authorization",
        "x-api-key",
        "proxy-authorization",
        "host",
        "connection",
        "content-length",
        "expect",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "origin",
        "referer",
        "cookie",
        "cookie2",
    }
)
_OF_BROWSERS = ("sec-", "access-control-", "anthropic-dangerous-")


def _entries(given: Any) -> list[dict[str, Any]]:
    """LiteLLM keeps one entry as itself and several as a list. Copies, so that nothing shared
    between requests or attempts is changed."""
    if given is None:
        return []
    several: Iterable[Any] = [given] if isinstance(given, Mapping) else given
    return [dict(entry) for entry in several if isinstance(entry, Mapping)]


def _bearer(entry: Mapping[str, Any]) -> Bearer | None:
    headers = entry.get("extra_headers")
    value = headers.get("authorization") if isinstance(headers, Mapping) else None
    return value if isinstance(value, Bearer) else None


def _harmless(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in headers.items() if _is_harmless(k.strip().lower())}


def _is_harmless(name: str) -> bool:
    return name not in _OURS and not name.startswith(_OF_BROWSERS)
