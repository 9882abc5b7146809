"""What a key may do: its tenant must be at work, and its scopes must name the act."""

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from api.callers import Caller
from api.errors import InsufficientScope, InvalidKey
from tokens.errors import TenantSuspended

if TYPE_CHECKING:
    from rest_framework.views import APIView


class HasScope(BasePermission):
    """Lets a caller pass whose key has the view's ``required_scopes[method]``.

    A view without any scope for the method lets nobody pass by accident: it is refused.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        caller = request.auth
        if not isinstance(caller, Caller):
            raise InvalidKey
        if caller.tenant.suspended_at is not None:
            raise TenantSuspended("This tenant is suspended.")
        if getattr(view, "service_keys_only", False) and not caller.is_service:
            raise InsufficientScope("This is for service keys only.")
        method = "GET" if request.method == "HEAD" else request.method
        if method not in view.allowed_methods:
            return True  # Answered with 405, which says nothing of anybody's.
        scope = getattr(view, "required_scopes", {}).get(method)
        if scope is None or not caller.may(scope):
            raise InsufficientScope(f"This key lacks the scope {scope}.")
        return True


class HasScopeIfKeyShown(HasScope):
    """For what is public: a caller without a key has been let in by the authentication."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return request.auth is None or super().has_permission(request, view)
