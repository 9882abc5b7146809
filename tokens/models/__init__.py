from tokens.models import prefix  # noqa: F401  the look-up by a beginning
from tokens.models.account import Account, RecoveryCode, SecondFactor
from tokens.models.assignment import Assignment
from tokens.models.attempt import UNSETTLED, Cause, Outcome, RefreshAttempt
from tokens.models.audit import WENT_WELL, AuditBatch, AuditChain, AuditEvent
from tokens.models.credential import OAuthCredential, Problem, Standing, Status
from tokens.models.deployment import Deployment
from tokens.models.fingerprint import TokenFingerprint, TokenKind
from tokens.models.handout import HandOut
from tokens.models.heartbeat import Heartbeat
from tokens.models.import_draft import ImportDraft
from tokens.models.job import Job, JobAct, JobRow, RowState
from tokens.models.keys import DataKey, VaultKey
from tokens.models.span import KeySpan
from tokens.models.statistics import HandOutTally, RefreshTally, TenantStatistics
from tokens.models.tenant import DEFAULT_TENANT, DEFAULT_USER, Backoff, Tenant
from tokens.models.upstream import Upstream

__all__ = [
    "DEFAULT_TENANT",
    "DEFAULT_USER",
    "UNSETTLED",
    "WENT_WELL",
    "Account",
    "Assignment",
    "AuditBatch",
    "AuditChain",
    "AuditEvent",
    "Backoff",
    "Cause",
    "DataKey",
    "Deployment",
    "HandOut",
    "HandOutTally",
    "Heartbeat",
    "ImportDraft",
    "Job",
    "JobAct",
    "JobRow",
    "KeySpan",
    "OAuthCredential",
    "Outcome",
    "Problem",
    "RecoveryCode",
    "RefreshAttempt",
    "RefreshTally",
    "RowState",
    "SecondFactor",
    "Standing",
    "Status",
    "Tenant",
    "TenantStatistics",
    "TokenFingerprint",
    "TokenKind",
    "Upstream",
    "VaultKey",
]
