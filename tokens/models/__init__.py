from tokens.models.attempt import Cause, Outcome, RefreshAttempt
from tokens.models.audit import AuditEvent
from tokens.models.credential import OAuthCredential, Problem, Standing, Status
from tokens.models.fingerprint import TokenFingerprint, TokenKind
from tokens.models.handout import HandOut
from tokens.models.heartbeat import Heartbeat
from tokens.models.keys import DataKey, VaultKey
from tokens.models.statistics import TenantStatistics
from tokens.models.tenant import DEFAULT_TENANT, DEFAULT_USER, Tenant
from tokens.models.upstream import Upstream

__all__ = [
    "DEFAULT_TENANT",
    "DEFAULT_USER",
    "AuditEvent",
    "Cause",
    "DataKey",
    "HandOut",
    "Heartbeat",
    "OAuthCredential",
    "Outcome",
    "Problem",
    "RefreshAttempt",
    "Standing",
    "Status",
    "Tenant",
    "TenantStatistics",
    "TokenFingerprint",
    "TokenKind",
    "Upstream",
    "VaultKey",
]
