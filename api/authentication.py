"""`Authorization: Bearer ovs_…` or `ovu_…` (RFC 6750 section 2.1)."""

from django.conf import settings
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from api import throttle, usage
from api.callers import Caller
from api.errors import InvalidKey
from api.keys import SHOWN, digest_of, key_with
from api.models import ApiKey
from api.throttle import Showing
from oauthvault.client_address import client_address
from tokens import clock, isolation
from tokens.networks import Address, lies_in


class BearerKeyAuthentication(BaseAuthentication):
    """The caller, in ``request.auth``; InvalidKey for anything but a key that is good now.

    Which of the reasons it was is not said: neither that a key once existed, nor that it
    would be good from elsewhere. RateLimited in its place after too many of them; a key
    that is good is answered even then.
    """

    def authenticate(self, request: Request) -> tuple[None, Caller] | None:
        text = shown_bearer(request._request)
        if text is None:
            raise InvalidKey
        address, digest = client_address(request._request), digest_of(text)
        showing = Showing(address, text[:SHOWN], digest)
        throttle.refuse_guess(showing)
        key = None if digest is None else key_with(digest)
        now = clock.now()
        if digest is None or key is None or not _is_good(key, address=address, now=now):
            throttle.note_failure(showing)
            raise InvalidKey
        throttle.note_good(digest)
        isolation.enter(key.tenant_id)
        usage.note(key=key, now=now)
        return None, Caller(key=key)

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class KeyIfShown(BearerKeyAuthentication):
    """Nobody is asked for a key while OAUTHVAULT_PUBLIC_STATS is true; one shown must be good."""

    def authenticate(self, request: Request) -> tuple[None, Caller] | None:
        if settings.OAUTHVAULT_PUBLIC_STATS and "HTTP_AUTHORIZATION" not in request.META:
            return None
        return super().authenticate(request)


def shown_bearer(request: HttpRequest) -> str | None:
    """What is shown as a bearer; None: nothing is. Whoever shows no key guesses none."""
    scheme, _, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return text.strip() or None if scheme.lower() == "bearer" else None


def _is_good(key: ApiKey, *, address: Address | None, now: float) -> bool:
    """Neither revoked nor ended, and from where both the key and its tenant may be used."""
    return (
        key.revoked_at is None
        and (key.expires_at is None or key.expires_at > now)
        and all(
            lies_in(address, networks)
            for networks in (key.networks, key.tenant.key_networks)
            if networks
        )
    )
