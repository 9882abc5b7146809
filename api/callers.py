"""Who is asking, and for whom."""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from django.http import HttpRequest

from api.errors import InsufficientScope, InvalidRequest, UserRequired
from api.keys import Scope
from api.models import ApiKey, KeyKind
from tokens import user_ids
from tokens.models import DEFAULT_USER, Tenant

USER_HEADER = "X-OAuthVault-User"
# Visible ASCII and blanks, every percent sign the beginning of an escape. No comma: a header that
# is given twice comes here as one, with a comma between, and would be a third user.
_PERCENT_ENCODED = re.compile(r"(?:[ -$&-+\--~]|%[0-9A-Fa-f]{2})*")
_LONGEST_ENCODED = user_ids.LONGEST * 4 * len("%00")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A key that was shown and is good. The tenant is fixed by it, whatever else is said."""

    key: ApiKey

    @property
    def tenant(self) -> Tenant:
        return self.key.tenant

    @property
    def actor(self) -> str:
        return self.key.actor

    @property
    def is_service(self) -> bool:
        return self.key.kind == KeyKind.SERVICE

    def may(self, scope: Scope) -> bool:
        return scope.value in self.key.scopes

    def user_of(self, request: HttpRequest) -> str:
        """Whose credential the request is about.

        A service key says so in the header; where the tenant has a default user, saying
        nothing means that one. A user key means its own user, and InsufficientScope
        answers a header that names another one.
        """
        named = named_user(request)
        if not self.is_service:
            if named not in (None, self.key.user_id):
                raise InsufficientScope("A user key is good for its own user only.")
            named = self.key.user_id
        if named is None and self.tenant.has_default_user:
            named = DEFAULT_USER
        if not named:
            raise UserRequired(f"Name the user in {USER_HEADER} (percent-encoded UTF-8).")
        user_ids.check_named(named, tenant=self.tenant)
        return named


def named_user(request: HttpRequest) -> str | None:
    """The user id in the header, decoded; None without the header. InvalidRequest if it is
    not percent-encoded UTF-8."""
    encoded = request.headers.get(USER_HEADER)
    if encoded is None:
        return None
    if len(encoded) > _LONGEST_ENCODED or not _PERCENT_ENCODED.fullmatch(encoded):
        reason = f"must be percent-encoded UTF-8, of at most {user_ids.LONGEST} characters"
        if "," in encoded:
            reason = "must name one user; a comma in an id is written %2C"
        raise InvalidRequest({USER_HEADER: reason})
    try:
        return unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest({USER_HEADER: "must be percent-encoded UTF-8"}) from None
