"""A name for every request, and where it comes from, so that an answer, a log line and an
audit record meet."""

import re
import uuid
from collections.abc import Callable
from contextvars import ContextVar

from django.http import HttpRequest, HttpResponse

from oauthvault.client_address import client_address as address_of_client
from tokens import isolation

HEADER = "X-Request-ID"
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{8,64}")

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="-")
# Empty where there is no request, or nobody knows where it comes from.
current_client_address: ContextVar[str] = ContextVar("current_client_address", default="")


def request_id(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Take the caller's X-Request-ID if it is harmless, else make one; answer with it."""

    def middleware(request: HttpRequest) -> HttpResponse:
        given = request.headers.get(HEADER, "")
        name = given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex
        # It stays until this thread's next request: Django logs a refusal after the last
        # middleware has returned.
        current_request_id.set(name)
        response = get_response(request)
        response[HEADER] = name
        return response

    return middleware


def isolated(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """A request begins and ends at work for nobody: it is its key that says for whom, and in
    the dashboard the operator who has signed in."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with isolation.nobody():
            return get_response(request)

    return middleware


def client_address(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Note where the request comes from (`oauthvault.client_address`)."""

    def middleware(request: HttpRequest) -> HttpResponse:
        # Like the name it stays until this thread's next request.
        current_client_address.set(str(address_of_client(request) or ""))
        return get_response(request)

    return middleware
