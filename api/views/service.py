"""How the vault itself is: health, statistics, metrics, signs of life."""

import hmac
import os
from typing import ClassVar

import prometheus_client
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from prometheus_client import multiprocess
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response

from api import answers, health, openapi, serializers, throttle
from api.authentication import KeyIfShown, shown_bearer
from api.callers import Caller
from api.errors import InvalidKey
from api.keys import Scope
from api.permissions import HasScopeIfKeyShown
from api.throttle import Showing
from api.views.base import KeylessView, VaultView
from oauthvault.client_address import client_address, is_local_caller
from tokens import clock, isolation, metrics
from tokens.models import DEFAULT_TENANT, Tenant
from tokens.statistics import statistics_for


class HealthView(KeylessView):
    @extend_schema(
        operation_id="health",
        summary="Health check for OAuth service",
        auth=[],
        responses={
            200: serializers.Health,
            503: serializers.Health,
            **openapi.refusals_but_unavailable(),
        },
    )
    def get(self, request: Request) -> Response:
        """Within two seconds, whatever hangs."""
        found = health.examine()
        return Response(answers.health(found), status=_ok_if(found.serves))


class StatsView(VaultView):
    authentication_classes = (KeyIfShown,)
    permission_classes = (HasScopeIfKeyShown,)
    required_scopes: ClassVar = {"GET": Scope.STATS_READ}
    service_keys_only = True

    @extend_schema(
        operation_id="stats",
        summary="Token statistics",
        auth=[{}, {"key": []}],  # type: ignore[list-item]
        responses={
            200: serializers.Stats,
            **openapi.refusals(*openapi.WITH_KEY, "invalid_request"),
        },
    )
    def get(self, request: Request) -> Response:
        """Of the key's tenant; without a key, where that is allowed, of the tenant `default`."""
        tenant = self._tenant(request)
        return Response(answers.statistics(statistics_for(tenant=tenant, now=clock.now())))

    def _tenant(self, request: Request) -> Tenant:
        if isinstance(request.auth, Caller):
            return request.auth.tenant
        with isolation.every_tenant():
            tenant = Tenant.objects.filter(slug=DEFAULT_TENANT, suspended_at=None).first()
        if tenant is None:
            raise InvalidKey
        return tenant


class LiveView(KeylessView):
    @extend_schema(
        operation_id="livez",
        summary="Is the process alive?",
        auth=[],
        responses={200: serializers.Alive, **openapi.refusals_but_unavailable()},
    )
    def get(self, request: Request) -> Response:
        return Response({"status": "alive"})


class ReadyView(KeylessView):
    @extend_schema(
        operation_id="readyz",
        summary="Can it serve?",
        auth=[],
        responses={
            200: serializers.Ready,
            503: serializers.Ready,
            **openapi.refusals_but_unavailable(),
        },
    )
    def get(self, request: Request) -> Response:
        """The database answers, and the keys open what it holds."""
        found = health.examine_store()
        return Response(
            {"status": "ready" if found.serves else "not ready", "checks": found.checks},
            status=_ok_if(found.serves),
        )


class MetricsView(KeylessView):
    @extend_schema(
        operation_id="metrics",
        summary="Prometheus metrics",
        description=(
            "In the text format 0.0.4. With `OAUTHVAULT_METRICS_TOKEN` for who shows it; without "
            "it for direct callers of the loopback only."
        ),
        auth=[],
        responses={
            (200, "text/plain"): OpenApiTypes.STR,
            **openapi.refusals("invalid_key", "rate_limited"),
        },
    )
    def get(self, request: Request) -> HttpResponse:
        _refuse_strangers(request._request)
        return HttpResponse(
            prometheus_client.generate_latest(_of_processes()) + metrics.exposition(),
            content_type=metrics.CONTENT_TYPE,
        )


def _refuse_strangers(request: HttpRequest) -> None:
    """InvalidKey for who may not scrape; RateLimited after too many tokens that are not it."""
    token = settings.OAUTHVAULT_METRICS_TOKEN
    if token is None:
        if not is_local_caller(request):
            raise InvalidKey
        return
    shown = shown_bearer(request)
    if shown is None:
        raise InvalidKey
    if not hmac.compare_digest(shown.encode(), token.reveal().encode()):
        showing = Showing(client_address(request))
        throttle.refuse_guess(showing)
        throttle.note_failure(showing)
        raise InvalidKey


def _of_processes() -> prometheus_client.CollectorRegistry:
    """django-prometheus's own: of this process, or of all where they share a folder."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return prometheus_client.REGISTRY
    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _ok_if(serves: bool) -> int:
    return status.HTTP_200_OK if serves else status.HTTP_503_SERVICE_UNAVAILABLE
