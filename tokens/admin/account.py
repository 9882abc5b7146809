"""An operator's own sign-in: second factor, recovery codes, sessions. Everything in here is about
the operator who asks, and about nobody else."""

from typing import Any, cast

import segno
from django import forms
from django.contrib import admin, messages
from django.contrib.auth import logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django_otp import login as mark_as_verified
from unfold.widgets import INPUT_CLASSES

from tokens import accounts, clock, second_factor
from tokens.admin import second_factor as asking
from tokens.admin import sessions
from tokens.admin.base import operator
from tokens.admin.times import exact, span
from tokens.secret import RecoveryCode, TotpSecret

# In the session: which factor was begun here. Its secret is shown to no other session.
_BEGAN = "began_second_factor"
FRAME, BARE = "admin/base_site.html", "unfold/layouts/unauthenticated.html"


class FirstCodeForm(forms.Form):
    code = forms.CharField(
        label=gettext_lazy("Code"),
        help_text=gettext_lazy("The six digits that your authenticator shows now."),
        max_length=16,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "one-time-code",
                "inputmode": "numeric",
                "class": " ".join(INPUT_CLASSES),
            }
        ),
    )


def show(request: HttpRequest) -> HttpResponse:
    """What the operator has, and when their session ends."""
    now, me = clock.now(), _me(request)
    factor = second_factor.factor_of(me)
    ends = sessions.ends_at(request)
    return _page(
        request,
        "show",
        _("Your sign-in"),
        factor=factor,
        since=exact(factor.confirmed_at) if factor and factor.confirmed_at is not None else "",
        codes_left=second_factor.codes_left(me) if factor else 0,
        ends_at=exact(ends),
        ends_in=span(max(0.0, ends - now)),
        idle=span(sessions.idle_limit()),
    )


def enrol(request: HttpRequest) -> HttpResponse:
    """Asks for the password; then shows the new secret until a code confirms it; then the recovery
    codes, in that one answer."""
    me = _me(request)
    if second_factor.is_enrolled(me):
        return HttpResponseRedirect(onward(request, reverse("account")))
    step = request.POST.get("step") if request.method == "POST" else None
    password = asking.PasswordForm(me, data=request.POST if step == "begin" else None)
    if step == "begin" and password.is_valid():
        try:
            request.session[_BEGAN] = second_factor.begin(operator=me)
        except second_factor.AlreadyEnrolled:  # in another window, in this moment
            return HttpResponseRedirect(onward(request, reverse("account")))
        return HttpResponseRedirect(request.get_full_path())
    waiting = second_factor.waiting(request.session.get(_BEGAN), operator=me)
    if waiting is None or step == "begin":
        return _page(request, "begin", _("Set up a second factor"), form=password)
    form = FirstCodeForm(request.POST if step == "confirm" else None)
    if form.is_valid():
        code = form.cleaned_data["code"]
        codes = second_factor.confirm(operator=me, code=code, now=clock.now())
        if codes is not None:
            mark_as_verified(request, second_factor.factor_of(me))
            del request.session[_BEGAN]
            sessions.keep(request)
            return _codes_once(request, codes)
        form.add_error("code", _(
            "This code is not right. Wait for the next one; and is the clock of your phone right?"
        ))  # fmt: skip
    return _page(
        request,
        "scan",
        _("Set up a second factor"),
        form=form,
        picture=_qr_code(waiting.uri),
        secret=_in_groups(waiting.secret),
    )


def recovery_codes(request: HttpRequest) -> HttpResponse:
    """New ones in place of the old ones, shown once."""
    me = _me(request)
    if not second_factor.is_enrolled(me):
        return HttpResponseRedirect(reverse("account"))
    proof = asking.proof(request, sent=request.method == "POST")
    if proof.is_valid():
        return _codes_once(request, second_factor.new_recovery_codes(operator=me, now=clock.now()))
    return _page(request, "new_codes", _("New recovery codes"), form=proof)


def prove(request: HttpRequest) -> HttpResponse:
    """Who is at the keyboard, before the pages on which accounts are made and changed."""
    proof = asking.proof(request, sent=request.method == "POST")
    if proof.is_valid():
        sessions.note_proof(request, now=clock.now())
        return HttpResponseRedirect(onward(request, reverse("account")))
    return _page(request, "prove", _("Is it you?"), form=proof)


def remove(request: HttpRequest) -> HttpResponse:
    me = _me(request)
    if not second_factor.is_enrolled(me):
        return HttpResponseRedirect(reverse("account"))
    proof = asking.proof(request, sent=request.method == "POST")
    if proof.is_valid():
        second_factor.remove(operator=me, actor=operator(request), now=clock.now())
        sessions.keep(request)
        messages.success(request, _("Your second factor is gone. You sign in with your password."))
        return HttpResponseRedirect(reverse("account"))
    return _page(request, "remove", _("Remove your second factor"), form=proof)


def sign_out_everywhere(request: HttpRequest) -> HttpResponse:
    if request.method == "POST" and "everywhere" in request.POST:
        accounts.end_sessions(
            operator=_me(request), actor=operator(request), now=clock.now(), why="asked for"
        )
        logout(request)
        messages.success(request, _("You are signed out, here and everywhere else."))
        return HttpResponseRedirect(reverse("admin:login"))
    return _page(request, "sign_out_everywhere", _("Sign out everywhere"))


def _me(request: HttpRequest) -> User:
    return cast(User, request.user)


def _page(request: HttpRequest, name: str, title: str, **more: Any) -> HttpResponse:
    """Without the dashboard around it, as long as the operator may not see that."""
    context = {
        **admin.site.each_context(request),
        "title": title,
        "subtitle": None,
        "layout": FRAME if sessions.is_let_in(request) else BARE,
        "next": onward(request, ""),
        **more,
    }
    request.current_app = admin.site.name
    return TemplateResponse(request, f"admin/account/{name}.html", context)


def _codes_once(request: HttpRequest, codes: list[RecoveryCode]) -> HttpResponse:
    texts = [code.reveal() for code in codes]
    return _page(request, "codes_once", _("Your recovery codes"), codes=texts)


def onward(request: HttpRequest, otherwise: str) -> str:
    """Where the operator was going before they were stopped, if that is here."""
    wanted = request.GET.get("next", "")
    here = url_has_allowed_host_and_scheme(wanted, allowed_hosts=None)
    return wanted if here and wanted.startswith("/admin/") else otherwise


def _qr_code(uri: TotpSecret) -> SafeString:
    """SVG without a style. It is made of modules only, and nothing of the text stands in it."""
    picture = segno.make(uri.reveal(), error="m", micro=False)
    return mark_safe(picture.svg_inline(scale=4, border=4, dark="#000", light="#fff"))  # noqa: S308


def _in_groups(secret: TotpSecret) -> str:
    text = secret.reveal()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))
