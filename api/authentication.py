"""`Authorization: Bearer ovs_…` or `ovu_…` (RFC 6750 section 2.1)."""

from django.conf import settings
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from api import usage
from api.callers import Caller, comes_from
from api.errors import InvalidKey
from api.keys import find_key
from tokens import clock


class BearerKeyAuthentication(BaseAuthentication):
    """The caller, in ``request.auth``; InvalidKey for anything but a key that is good now.

    Which of the reasons it was is not said: neither that a key once existed, nor that it
    would be good from elsewhere.
    """

    def authenticate(self, request: Request) -> tuple[None, Caller] | None:
        scheme, _, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        key = find_key(text.strip()) if scheme.lower() == "bearer" else None
        now = clock.now()
        if (
            key is None
            or key.revoked_at is not None
            or (key.expires_at is not None and key.expires_at <= now)
            or (key.networks and not comes_from(request._request, key.networks))
        ):
            raise InvalidKey
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
