"""Posture as Django system checks: what an operator should know before it matters."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register


@register(deploy=True)
def https_base_url(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if str(settings.OAUTHVAULT_BASE_URL).startswith("https://"):
        return []
    return [
        Warning(
            "OAUTHVAULT_BASE_URL is not an https:// address.",
            hint="Keys and tokens travel in requests: put TLS in front, and name it here.",
            id="oauthvault.W001",
        )
    ]


@register(deploy=True)
def metrics_token(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.OAUTHVAULT_METRICS_TOKEN is not None:
        return []
    return [
        Warning(
            "OAUTHVAULT_METRICS_TOKEN is not set: /metrics answers direct loopback callers only.",
            id="oauthvault.W002",
        )
    ]
