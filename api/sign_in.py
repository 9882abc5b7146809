"""Signing in to the dashboard: whoever guesses is slowed, and what came of it is written down."""

import math
from http import HTTPStatus
from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.auth.views import PasswordChangeView
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django_otp import login as mark_as_verified

from api import throttle
from api.pages import page
from oauthvault import first_password
from oauthvault.client_address import client_address
from tokens import accounts, audit, clock, isolation, roles, second_factor
from tokens.admin import account, sessions
from tokens.admin.base import operator
from tokens.admin.second_factor import CodeForm, OwnPasswordForm
from tokens.admin.times import exact
from tokens.errors import RateLimited

_NOBODY = "a name that nobody has"


def sign_in(request: HttpRequest) -> HttpResponse:
    """The dashboard's own page. 429 for an address from which too many sign-ins have failed,
    before any password is looked at: the right one too, or guessing would not be slowed."""
    if request.method != "POST":
        return admin.site.login(request)
    address = client_address(request)
    try:
        throttle.refuse_sign_in(address)
    except RateLimited as refusal:
        return _refused(refusal)
    answer = admin.site.login(request)
    tried = _name_that_failed(answer)
    if answer.status_code == HTTPStatus.FOUND:
        # Whoever has a second factor has not signed in before it.
        if not second_factor.is_enrolled(cast(User, request.user)):
            roles.record(action="sign_in", subject="", actor=operator(request), now=clock.now())
    elif tried is not None and throttle.note_failed_sign_in(address):
        _write_down(tried)
    return answer


def second_step(request: HttpRequest) -> HttpResponse:
    """Of a sign-in: the code, from whoever has a second factor. Slowed by the address as the first
    one is, and by the operator, whom only somebody with their password can slow here."""
    me = cast(User, request.user)
    onward = _onward(request)
    # `is_verified` is OTPMiddleware's, which has no type for it.
    if request.user.is_verified() or not second_factor.is_enrolled(me):  # type: ignore[union-attr]
        return HttpResponseRedirect(onward)
    form, status = CodeForm(me, data=request.POST if request.method == "POST" else None), 200
    form.fields["code"].widget.attrs["autofocus"] = True
    if form.is_bound:
        address = client_address(request)
        try:
            throttle.refuse_sign_in(address)
        except RateLimited as refusal:
            return _refused(refusal)
        if form.is_valid() and form.verdict is not None:
            mark_as_verified(request, second_factor.factor_of(me))
            request.session.cycle_key()
            roles.record(
                action="sign_in", subject="", actor=operator(request), now=clock.now(),
                second_factor="recovery code" if form.verdict.by_recovery_code else "code",
            )  # fmt: skip
            if form.verdict.by_recovery_code:
                _tell_what_is_left(request, me)
            return HttpResponseRedirect(onward)
        if form.verdict is not None and form.verdict.wait:
            status = HTTPStatus.TOO_MANY_REQUESTS
        elif form.verdict is not None:
            throttle.note_failed_sign_in(address)
    answer = TemplateResponse(
        request,
        "admin/account/second_step.html",
        {
            **admin.site.each_context(request),
            "title": _("Second step"),
            "layout": account.BARE,
            "form": form,
        },
        status=status,
    )
    if status == HTTPStatus.TOO_MANY_REQUESTS and form.verdict is not None:
        answer["Retry-After"] = str(math.ceil(form.verdict.wait))
    return answer


class _OwnPassword(PasswordChangeView):
    """The operator's own. What is written down is that it was done."""

    form_class = OwnPasswordForm
    template_name = "admin/account/password.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        let_in = sessions.is_let_in(self.request)
        return {
            **admin.site.each_context(self.request),
            **super().get_context_data(**kwargs),
            "subtitle": None,
            "layout": account.FRAME if let_in else account.BARE,
            "forced": not let_in,
        }

    def form_valid(self, form: Any) -> HttpResponse:
        me = cast(User, self.request.user)
        with transaction.atomic():
            if not accounts.hold(operator=me):
                form.add_error("old_password", _("Your account was changed in this moment."))
                return self.form_invalid(form)
            answer = super().form_valid(form)
            accounts.own_password_set(operator=me, now=clock.now())
        if not first_password.forget_if(form.cleaned_data["old_password"]):
            messages.warning(self.request, _(
                "The first password is still in the file %(name)s of the data directory. It is "
                "good for nothing any more; delete it."
            ) % {"name": first_password.FILE})  # fmt: skip
        if not sessions.is_let_in(self.request):
            messages.success(self.request, _("Your password is changed."))
        return answer

    def get_success_url(self) -> str:
        if sessions.is_let_in(self.request):
            return reverse("admin:password_change_done")
        return _onward(self.request)

    def form_invalid(self, form: Any) -> HttpResponse:
        answer = super().form_invalid(form)
        if form.verdict is not None and form.verdict.wait:
            answer.status_code = HTTPStatus.TOO_MANY_REQUESTS
            answer["Retry-After"] = str(math.ceil(form.verdict.wait))
        return answer


change_own_password = _OwnPassword.as_view()


def _onward(request: HttpRequest) -> str:
    return account.onward(request, reverse("admin:index"))


def _tell_what_is_left(request: HttpRequest, me: User) -> None:
    left = second_factor.codes_left(me)
    messages.warning(request, ngettext(
        "That recovery code is spent; %(n)d is left. “Your sign-in” makes new ones.",
        "That recovery code is spent; %(n)d are left. “Your sign-in” makes new ones.",
        left,
    ) % {"n": left})  # fmt: skip


def _refused(refusal: RateLimited) -> HttpResponse:
    seconds = math.ceil(refusal.retry_after or 1)
    when = _("You can try again in %(n)d seconds, at %(at)s.") % {
        "n": seconds, "at": exact(clock.now() + seconds),
    }  # fmt: skip
    answer = page(title="Too many attempts", sentence=f"{refusal.detail} {when}", status=429)
    answer["Retry-After"] = str(seconds)
    return answer


def _name_that_failed(answer: HttpResponse) -> str | None:
    """The name with which somebody was not let in; None: they were, or tried no password."""
    if not isinstance(answer, TemplateResponse):
        return None
    tried = (answer.context_data or {})["form"].cleaned_data
    return tried["username"] if {"username", "password"} <= tried.keys() else None


def _write_down(tried: str) -> None:
    """What was typed is kept only if it is somebody's name: people type their password there."""
    is_known = get_user_model().objects.filter(username=tried).exists()
    with isolation.every_tenant():
        audit.record(
            tenant=None, actor="not signed in", action="sign_in", outcome="refused",
            now=clock.now(), tried=tried if is_known else _NOBODY,
        )  # fmt: skip
