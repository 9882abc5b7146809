"""A view that fails unexpectedly says that it failed, and nothing of what was in its hands."""

import pytest
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from oauthvault.urls import handler400, handler403, handler404, handler500

__all__ = ["handler400", "handler403", "handler404", "handler500"]

CANARY = "sk-ant-oat01-canary0123456789"
_FAILURES: dict[str, tuple[Exception, int]] = {
    "400": (SuspiciousOperation(CANARY), 400),
    "403": (PermissionDenied(CANARY), 403),
    "404": (Http404(CANARY), 404),
    "500": (ValueError(CANARY), 500),
}


def fail(request: HttpRequest, how: str) -> HttpResponse:
    raise _FAILURES[how][0]


urlpatterns = [path("fail/<how>", fail), path("admin/fail/<how>", fail)]


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("where", ["/fail/", "/admin/fail/"])
@pytest.mark.parametrize("how", _FAILURES)
def test_a_failure_is_a_plain_answer(
    where: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = Client(raise_request_exception=False).get(where + how)
    text = answer.content.decode()
    assert answer.status_code == _FAILURES[how][1]
    assert "canary" not in text
    for word in ("Traceback", "Django", "DEBUG", "ValueError", __name__):
        assert word not in text
    assert answer.headers["Cache-Control"] == "no-store"
    kind = "text/html" if where.startswith("/admin/") else "application/problem+json"
    assert answer.headers["Content-Type"].startswith(kind)
    assert answer.headers["X-Request-ID"] in text


def test_a_form_without_its_token_is_refused_by_a_plain_page() -> None:
    answer = Client(enforce_csrf_checks=True).post("/admin/login/", {"username": "x"})
    text = answer.content.decode()
    assert answer.status_code == 403
    assert "This form was not accepted" in text
    for word in ("Django", "DEBUG", "CSRF", "cookie not set"):
        assert word not in text
