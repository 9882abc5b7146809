"""For whom the dashboard is at work: the tenants of the operator who has signed in."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from api.pages import is_for_people, page
from tokens import isolation, roles

# What somebody may do who looks after no tenant: leave, and look after their own sign-in.
_OF_NO_TENANT = (
    "/admin/logout/", "/admin/login/", "/admin/password_change/", "/admin/account/",
    "/admin/jsi18n/",
)  # fmt: skip


def at_work(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Below /admin/ a request of an operator is at work for the tenants they look after, and
    everything that it asks shows those alone. Of nobody else anything is asked there."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if not is_for_people(request) or not (request.user.is_active and request.user.is_staff):
            return get_response(request)
        tenant_ids = roles.tenants_of(request.user)
        if tenant_ids is None:
            with isolation.every_tenant():
                return get_response(request)
        if tenant_ids:
            with isolation.of(*tenant_ids):
                return get_response(request)
        if request.path.startswith(_OF_NO_TENANT):
            return get_response(request)
        return page(
            title="You look after no tenant yet",
            sentence="A platform administrator can assign one to your account: "
            "oauthvault assign_operator. Then load this page again.",
            status=403,
        )

    return middleware
