"""Refusals as RFC 9457 problem details. The only place that knows a refusal's HTTP status."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions, status

from api.errors import InvalidKey, InvalidRequest
from api.pages import is_for_people, page
from oauthvault.logging import redact
from oauthvault.middleware import current_request_id
from tokens.errors import InvalidCredentials, UnknownGeneration, VaultError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:oauthvault:problem:"
# Seconds after which a caller may try again when the database does not answer.
_DATABASE_RETRY_AFTER = 5.0


_NAMES_FIELDS = InvalidCredentials | InvalidRequest | UnknownGeneration


@dataclass(frozen=True)
class Kind:
    status: int
    title: str


_NO_TOKEN, _EXPIRED, _NOT_REFRESHED = (
    "No OAuth token found",
    "OAuth token expired",
    "Failed to refresh token",
)

# Titles are the document's words where it has some.
KINDS: Mapping[str, Kind] = {
    "invalid_request": Kind(400, "Invalid request"),
    "invalid_json": Kind(400, "Invalid JSON"),
    "user_required": Kind(400, "User required"),
    "invalid_key": Kind(401, "Invalid key"),
    "insufficient_scope": Kind(403, "Insufficient scope"),
    "tenant_suspended": Kind(403, "Tenant suspended"),
    "not_found": Kind(404, "Not found"),
    "no_token": Kind(404, _NO_TOKEN),
    "method_not_allowed": Kind(405, "Method not allowed"),
    "token_expired": Kind(409, _EXPIRED),
    "no_refresh_token": Kind(409, "No refresh token"),
    "reauthorization_required": Kind(409, "Reauthorization required"),
    "revoked": Kind(409, "OAuth token revoked"),
    "suspended": Kind(409, "Credential suspended"),
    "quarantined": Kind(409, "Credential quarantined"),
    "stale_credential": Kind(409, "Stale credential"),
    "already_stored": Kind(409, "Already stored"),
    "precondition_failed": Kind(412, "Precondition failed"),
    "body_too_large": Kind(413, "Body too large"),
    "unsupported_media_type": Kind(415, "Unsupported media type"),
    "invalid_credentials_file": Kind(422, "Invalid credentials file"),
    "rate_limited": Kind(429, "Rate limited"),
    "upstream_rate_limited": Kind(429, _NOT_REFRESHED),
    "internal_error": Kind(500, "Internal error"),
    "encryption_error": Kind(500, "Encryption error"),
    "upstream_error": Kind(502, _NOT_REFRESHED),
    "refresh_in_progress": Kind(503, "Refresh in progress"),
    "upstream_unavailable": Kind(503, _NOT_REFRESHED),
    "unavailable": Kind(503, "Unavailable"),
}


def problem(
    code: str,
    detail: str,
    *,
    retry_after: float | None = None,
    errors: Mapping[str, str] | None = None,
) -> HttpResponse:
    """The answer for ``code``. ``retry_after`` in seconds, sent in whole ones, rounded up.

    ``errors`` says what is wrong with which field. Texts pass through the same net as log
    lines: whatever looks like a token or a key is taken out.
    """
    kind = KINDS[code]
    body: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": redact(detail),
        "code": code,
        "request_id": current_request_id.get(),
    }
    if errors is not None:
        body["errors"] = {redact(name): redact(reason) for name, reason in errors.items()}
    # ASCII: a lone surrogate in a field's name has no other form on the wire.
    response = HttpResponse(json.dumps(body), content_type=MEDIA_TYPE, status=kind.status)
    response["Cache-Control"] = "no-store"
    if retry_after is not None:
        response["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if kind.status == status.HTTP_401_UNAUTHORIZED:
        response["WWW-Authenticate"] = "Bearer"
    return response


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """DRF's EXCEPTION_HANDLER: every exception of a view becomes a problem."""
    if isinstance(error, VaultError):
        return refusal(error)
    if isinstance(error, OperationalError | InterfaceError):
        logger.error("the database does not answer: %s", type(error).__name__, exc_info=error)
        return problem(
            "unavailable", "The database does not answer.", retry_after=_DATABASE_RETRY_AFTER
        )
    if isinstance(error, Http404):
        return problem("not_found", "There is nothing at this address.")
    if isinstance(error, RequestDataTooBig):
        return problem("body_too_large", "A request body has at most 64 KiB.")
    if isinstance(error, exceptions.APIException):
        return _of_framework(error)
    logger.error("a request failed unexpectedly", exc_info=error)
    return problem("internal_error", "The request failed here; the log says why.")


def refusal(error: VaultError) -> HttpResponse:
    """The problem that a refusal of the vault is to the world."""
    if error.code == "encryption_error" or error.code not in KINDS:
        logger.error("refused: %s", error.code, exc_info=error)
        if error.code == "encryption_error":
            return problem(error.code, "What is stored does not open. An operator must look.")
        return problem("internal_error", "The request failed here; the log says why.")
    errors = error.fields if isinstance(error, _NAMES_FIELDS) else None
    return problem(error.code, error.detail, retry_after=error.retry_after, errors=errors)


def _of_framework(error: exceptions.APIException) -> HttpResponse:
    if isinstance(error, exceptions.ParseError):
        return problem("invalid_json", "The body cannot be read.")
    if isinstance(error, exceptions.UnsupportedMediaType):
        return problem("unsupported_media_type", "Send the body as application/json.")
    if isinstance(error, exceptions.MethodNotAllowed):
        return problem("method_not_allowed", "This address does not answer that method.")
    if isinstance(error, exceptions.ValidationError):
        errors = _by_field(error.detail)
        detail = "; ".join(f"{name}: {reason}" for name, reason in errors.items())
        return problem("invalid_request", detail, errors=errors)
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        return refusal(InvalidKey())
    if isinstance(error, exceptions.PermissionDenied):
        return problem("insufficient_scope", "This key may not do that.")
    if isinstance(error, exceptions.NotFound):
        return problem("not_found", "There is nothing at this address.")
    logger.error("a request failed unexpectedly", exc_info=error)
    return problem("internal_error", "The request failed here; the log says why.")


def _by_field(detail: Any) -> dict[str, str]:
    if not isinstance(detail, Mapping):
        return {"(body)": " ".join(str(reason) for reason in detail)}
    return {
        "(body)" if name == "non_field_errors" else str(name): " ".join(map(str, reasons))
        for name, reasons in detail.items()
    }


# --- Error answers where no view of ours was reached -----------------------------------------


def unread(request: HttpRequest, error: VaultError) -> HttpResponse:
    """The answer to a request whose body was refused before anything looked at the rest."""
    if is_for_people(request):
        return _plain(request, error.code, error.detail)
    return refusal(error)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _plain(request, "invalid_request", "The request cannot be understood.")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _plain(request, "insufficient_scope", "This is not allowed.", title="Not allowed")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """CSRF_FAILURE_VIEW. The reason is for a log, and Django has written it there."""
    return _plain(
        request,
        "insufficient_scope",
        "This form was not accepted: go back, reload the page that it came from, and send it "
        "again. The browser must keep this site's cookies.",
        title="Not accepted",
    )


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _plain(request, "not_found", "There is nothing at this address.")


def server_error(request: HttpRequest) -> HttpResponse:
    return _plain(request, "internal_error", "The request failed here; the log says why.")


def _plain(
    request: HttpRequest, code: str, sentence: str, *, title: str | None = None
) -> HttpResponse:
    """The problem, or under /admin/ a page; ``title`` is the page's, if it needs another."""
    if not is_for_people(request):
        return problem(code, sentence)
    kind = KINDS[code]
    return page(title=title or kind.title, sentence=sentence, status=kind.status)
