"""How the schema describes what views do not say by themselves."""

from collections.abc import Iterable
from typing import Any

from django.views.generic import TemplateView
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from drf_spectacular.views import SpectacularAPIView

from api import serializers
from api.callers import USER_HEADER
from api.problems import KINDS, MEDIA_TYPE, TYPE_PREFIX

USER = OpenApiParameter(
    USER_HEADER,
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    required=False,
    description=(
        "The user, as percent-encoded UTF-8 of at most 256 characters (a comma is %2C). A service "
        "key of a tenant of many users must send it; a user key is good for its own user only."
    ),
)
PREFER = OpenApiParameter(
    "Prefer",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    required=False,
    description="`wait=N`: wait at most N seconds for a refresh, 10 at most (RFC 7240).",
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match", OpenApiTypes.STR, OpenApiParameter.HEADER, required=False
)
ETAG = OpenApiParameter(
    "ETag", OpenApiTypes.STR, OpenApiParameter.HEADER, response=[200], description="Opaque."
)

WITH_KEY = ("invalid_key", "insufficient_scope", "tenant_suspended", "rate_limited")
FOR_USER = (*WITH_KEY, "user_required", "invalid_request")
REFRESHING = (
    "reauthorization_required",
    "no_refresh_token",
    "suspended",
    "quarantined",
    "upstream_rate_limited",
    "upstream_error",
    "refresh_in_progress",
    "upstream_unavailable",
)
# What any request may come back with.
ALWAYS = ("method_not_allowed", "body_too_large", "internal_error", "unavailable")

# A credentials file, in the names of Claude Code or in snake_case, wrapped or bare.
CREDENTIALS_FILE: dict[str, Any] = {
    "type": "object",
    "description": (
        "A whole `.credentials.json`, the object inside it, or the same in snake_case "
        "(`access_token`, …). Times in Unix seconds or milliseconds."
    ),
    "properties": {
        "accessToken": {"type": "string"},
        "refreshToken": {"type": ["string", "null"]},
        "expiresAt": {"type": ["integer", "string"]},
        "refreshTokenExpiresAt": {"type": ["integer", "string", "null"]},
        "scopes": {"type": ["array", "string"], "items": {"type": "string"}},
        "isMax": {"type": "boolean", "default": True},
        "subscriptionType": {"type": ["string", "null"]},
        "accountEmail": {"type": ["string", "null"], "format": "email"},
        "claudeAiOauth": {"type": "object"},
    },
}


def refusals(*codes: str) -> dict[Any, Any]:
    """The problem responses for these codes, and for those that any request may get."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*codes, *ALWAYS)):
        by_status.setdefault(KINDS[code].status, []).append(code)
    return {
        (status, MEDIA_TYPE): OpenApiResponse(
            serializers.Problem,
            description=", ".join(f"`{code}`" for code in codes_of_status),
            examples=[_example(code) for code in codes_of_status],
        )
        for status, codes_of_status in by_status.items()
    }


def refusals_but_unavailable() -> dict[Any, Any]:
    """For addresses whose 503 is an answer of their own shape."""
    return {
        where: response
        for where, response in refusals("invalid_request").items()
        if where[0] != KINDS["unavailable"].status
    }


def _example(code: str) -> OpenApiExample:
    kind = KINDS[code]
    value = {
        "type": f"{TYPE_PREFIX}{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "A sentence for a person.",
        "code": code,
        "request_id": "0f8fad5bd9cb469fa16570867728950e",
    }
    return OpenApiExample(code, value=value, response_only=True, media_type=MEDIA_TYPE)


def without_slash_twins(endpoints: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Every address works with and without a trailing slash and is described once."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]


class BearerKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "api.authentication.BearerKeyAuthentication"
    name = "key"
    match_subclasses = True

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A service key (`ovs_…`) or a user key (`ovu_…`) of this vault.",
        }


class SchemaView(SpectacularAPIView):
    """JSON unless YAML is asked for; every reader of YAML reads JSON too."""

    renderer_classes = [
        OpenApiJsonRenderer2,
        OpenApiJsonRenderer,
        OpenApiYamlRenderer,
        OpenApiYamlRenderer2,
    ]


class DocsView(TemplateView):
    """Swagger UI, with the settings in a file of ours: drf-spectacular's own page is a script in
    a page, which no page of the vault may be."""

    template_name = "api/docs.html"
