"""Addresses of the vault, each with and without a trailing slash."""

from typing import Any

from django.urls import URLPattern, path
from django.views import View

from api.openapi import DocsView, SchemaView
from api.views import credential, service, token


def _address(route: str, view: "type[View[Any]]", name: str) -> list[URLPattern]:
    answer = view.as_view()
    return [path(route, answer, name=name), path(f"{route}/", answer)]


urlpatterns = [
    *_address("auth/claude/status", credential.StatusView, "status"),
    *_address("auth/claude/refresh", credential.RefreshView, "refresh"),
    *_address("auth/claude/revoke", credential.RevokeView, "revoke"),
    *_address("auth/claude/settings", credential.SettingsView, "settings"),
    *_address("auth/claude/health", service.HealthView, "health"),
    *_address("auth/claude/stats", service.StatsView, "stats"),
    *_address("auth/claude/token", token.TokenView, "token"),
    *_address("auth/claude/token/rejected", token.RejectedView, "rejected"),
    *_address("auth/claude/token/identify", token.IdentifyView, "identify"),
    *_address("auth/claude/credentials", credential.CredentialsView, "credentials"),
    *_address("metrics", service.MetricsView, "metrics"),
    *_address("livez", service.LiveView, "livez"),
    *_address("readyz", service.ReadyView, "readyz"),
    *_address("api/schema", SchemaView, "schema"),
    *_address("api/docs", DocsView, "docs"),
]
