"""Signing in to the dashboard: whoever guesses is slowed, and what came of it is written down."""

import math
from http import HTTPStatus
from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse

from api import throttle
from api.pages import page
from oauthvault.client_address import client_address
from tokens import audit, clock, isolation, roles
from tokens.admin.base import operator
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
        roles.record(action="sign_in", subject="", actor=operator(request), now=clock.now())
    elif tried is not None and throttle.note_failed_sign_in(address):
        _write_down(tried)
    return answer


def change_own_password(request: HttpRequest, **how: Any) -> HttpResponseBase:
    """The dashboard's own page. What is written down is that it was done."""
    answer = admin.site.password_change(request, **how)
    if request.method == "POST" and answer.status_code == HTTPStatus.FOUND:
        actor = operator(request)
        roles.record(
            action="set_password", subject=request.user.get_username(), actor=actor,
            now=clock.now(),
        )  # fmt: skip
    return answer


def _refused(refusal: RateLimited) -> HttpResponse:
    answer = page(title="Too many attempts", sentence=refusal.detail, status=429)
    answer["Retry-After"] = str(math.ceil(refusal.retry_after or 1))
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
