from tokens.models.attempt import Cause, Outcome, RefreshAttempt
from tokens.models.audit import AuditEvent
from tokens.models.credential import OAuthCredential, Problem, Standing, Status
from tokens.models.deployment import Deployment
from tokens.models.fingerprint import TokenFingerprint, TokenKind
from tokens.models.handout import HandOut
from tokens.models.heartbeat import Heartbeat
from tokens.models.keys import DataKey, VaultKey
from tokens.models.statistics import HandOutTally, RefreshTally, TenantStatistics
from tokens.models.tenant import DEFAULT_TENANT, DEFAULT_USER, Tenant
from tokens.models.upstream import Upstream

__all__ = [
    "DEFAULT_TENANT",
    "DEFAULT_USER",
    "AuditEvent",
    "Cause",
    "DataKey",
    "Deployment",
    "HandOut",
    "HandOutTally",
    "Heartbeat",
    "OAuthCredential",
    "Outcome",
    "Problem",
    "RefreshAttempt",
    "RefreshTally",
    "Standing",
    "Status",
    "Tenant",
    "TenantStatistics",
    "TokenFingerprint",
    "TokenKind",
    "Upstream",
    "VaultKey",
]
