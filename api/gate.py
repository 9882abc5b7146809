"""Between the sign-in and the dashboard: what an operator must do before they see anything."""

from collections.abc import Callable
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _

from api.pages import is_for_people
from tokens import accounts, clock, roles
from tokens.accounts import Standing
from tokens.admin import sessions

_ACCOUNTS = "/admin/auth/"
# Where somebody may be whatever is still to be done: leave, and sign in as somebody else.
_ALWAYS = ("/admin/logout/", "/admin/login/", "/admin/jsi18n/")


def guarded(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Below /admin/: a session that is too old has ended; whoever has a second factor shows it;
    a password that somebody else knows is changed; and where a second factor is required, whoever
    has none gets one. In this order, and before any page. And who it is, is asked again before the
    pages about operators' accounts."""

    def middleware(request: HttpRequest) -> HttpResponse:
        user = request.user
        if not is_for_people(request) or not (
            isinstance(user, User) and user.is_active and user.is_staff
        ):
            return get_response(request)
        now, standing = clock.now(), accounts.standing_of(user)
        if (why := sessions.why_ended(request, standing, now=now)) is not None:
            logout(request)
            messages.info(request, str(why))
            return get_response(request)
        sessions.note_seen(request, now=now)
        step = _first_to_do(request, user, standing)
        if (
            step is None
            and _is_about_accounts(request)
            and not sessions.is_proved(request, now=now)
        ):
            if request.method != "GET":
                messages.warning(request, _("Nothing was done yet."))
            return HttpResponseRedirect(f"{reverse('prove')}?{urlencode({'next': request.path})}")
        # For `sessions.is_let_in`; Django's requests have no type for what middleware adds.
        request.must_first = step  # type: ignore[attr-defined]
        if step is None or request.path == step or request.path in _ALWAYS:
            return get_response(request)
        back = {"next": request.get_full_path()} if request.method == "GET" else {}
        return HttpResponseRedirect(f"{step}?{urlencode(back)}" if back else step)

    return middleware


def _is_about_accounts(request: HttpRequest) -> bool:
    """The pages on which operators are made, changed and given another password. Whoever found a
    session open could else make themselves an account that outlives it."""
    is_list = request.path.removeprefix(_ACCOUNTS) in ("", "user/", "group/")
    return request.path.startswith(_ACCOUNTS) and not (is_list and request.method == "GET")


def _first_to_do(request: HttpRequest, user: User, standing: Standing) -> str | None:
    # OTPMiddleware gives every user `is_verified`, and no type for it.
    if standing.has_second_factor and not request.user.is_verified():  # type: ignore[union-attr]
        return reverse("second_step")
    if standing.must_change_password:
        return reverse("admin:password_change")
    if not standing.has_second_factor and _must_have_one(user):
        return reverse("enrol_second_factor")
    return None


def _must_have_one(user: User) -> bool:
    policy = settings.OAUTHVAULT_ADMIN_SECOND_FACTOR
    return policy == "required_for_all" or (
        policy == "required" and user.has_perm(roles.ALL_TENANTS)
    )
