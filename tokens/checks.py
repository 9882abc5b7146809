"""Posture as Django system checks: what an operator should know before it matters."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning, register
from django.db import DatabaseError, connection

from oauthvault.postgresql import roles


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
def https_authorization_server(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Warning(
            f"{variable} is not an https:// address.",
            hint="Refresh tokens are sent there, and anybody on the way could read them.",
            id="oauthvault.W002",
        )
        for variable in ("CLAUDE_OAUTH_TOKEN_URL", "CLAUDE_OAUTH_REVOKE_URL")
        if not (getattr(settings, variable) or "https://").startswith("https://")
    ]


@register(deploy=True)
def named_hosts(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if "*" not in settings.ALLOWED_HOSTS:
        return []
    return [
        Warning(
            "OAUTHVAULT_ALLOWED_HOSTS allows any host name.",
            hint="Name the hosts that the vault answers to.",
            id="oauthvault.W003",
        )
    ]


@register(deploy=True)
def row_level_security(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if connection.vendor != "postgresql":
        return []
    try:
        if not roles.passes_the_wall(connection):
            return []
    except DatabaseError:
        return []  # `oauthvault doctor` says that it cannot be reached
    return [
        Warning(
            "DATABASE_URL names a role that is superuser or bypasses row-level security.",
            hint="Give the service a plain role: `oauthvault prepare_roles`.",
            id="oauthvault.W004",
        )
    ]
