"""Who was handed whose token, and what else came of questions for one, gathered in memory
and written behind the requests.

A request adds one to a number; a thread of this process writes the numbers every few
seconds and when the process ends. A process that is killed loses the last few seconds of
this count, and of nothing else.
"""

import logging
import threading
from collections import Counter

from django.db import DatabaseError, transaction
from django.db.models import F, Q

from tokens import isolation
from tokens.behind import WriteBehind
from tokens.models import HandOut, HandOutTally, OAuthCredential, Tenant

logger = logging.getLogger(__name__)

HANDED_OUT = "handed_out"
OTHER = "other"
# What may come of a question for a token: `HANDED_OUT`, or the code of a refusal. Written
# down, because a metric has a series for each of them.
RESULTS = (
    HANDED_OUT,
    "no_token",
    "token_expired",
    "no_refresh_token",
    "reauthorization_required",
    "revoked",
    "suspended",
    "tenant_suspended",
    "quarantined",
    "refresh_in_progress",
    "rate_limited",
    "upstream_rate_limited",
    "upstream_error",
    "upstream_unavailable",
    "encryption_error",
    "invalid_request",
    "unavailable",
    OTHER,
)

_lock = threading.Lock()
_counts: Counter[tuple[int, int, str, int]] = Counter()
_last_used: dict[tuple[int, int], int] = {}
_results: Counter[tuple[int, str]] = Counter()


def note(*, credential: OAuthCredential, actor: str, now: float) -> None:
    """Count one hand-out of this credential to ``actor``. Touches no database."""
    place = (credential.tenant_id, credential.pk)
    with _lock:
        _counts[(*place, actor[:200], int(now) // 60)] += 1
        _last_used[place] = int(now)
        _results[credential.tenant_id, HANDED_OUT] += 1
    _writer.wake()


def note_refusal(*, tenant_id: int, code: str) -> None:
    """Count one question for a token that was refused with this ``code``; one that is not
    among `RESULTS` as `OTHER`. Touches no database."""
    with _lock:
        _results[tenant_id, code if code in RESULTS else OTHER] += 1
    _writer.wake()


@isolation.every_tenant()
def write() -> None:
    """Write what was gathered. What cannot be written is kept for the next time."""
    with _lock:
        counts, used, results = dict(_counts), dict(_last_used), dict(_results)
        _counts.clear()
        _last_used.clear()
        _results.clear()
    if not results:  # Whatever is counted at all has a result.
        return
    try:
        # In one order everywhere: two processes that lock the same rows must not cross.
        with transaction.atomic():
            _write_use(counts, used)
            _write_results(results)
    except DatabaseError:
        with _lock:
            for key, count in counts.items():
                _counts[key] += count
            for place, at in used.items():
                _last_used[place] = max(at, _last_used.get(place, 0))
            _results.update(results)
        logger.warning("the record of hand-outs cannot be written; it is kept and tried again")


def _write_use(
    counts: dict[tuple[int, int, str, int], int], used: dict[tuple[int, int], int]
) -> None:
    for (tenant_id, credential_id), at in sorted(used.items()):
        OAuthCredential.objects.filter(
            Q(last_used=None) | Q(last_used__lt=at), tenant_id=tenant_id, pk=credential_id
        ).update(last_used=at)
    living = set(
        OAuthCredential.objects.filter(
            pk__in={credential_id for _, credential_id, _, _ in counts}
        ).values_list("pk", flat=True)
    )
    for (tenant_id, credential_id, actor, minute), count in sorted(counts.items()):
        if credential_id not in living:
            continue
        row, _ = HandOut.objects.get_or_create(
            tenant_id=tenant_id, credential_id=credential_id, actor=actor, minute=minute
        )
        HandOut.objects.filter(pk=row.pk).update(count=F("count") + count)


def _write_results(results: dict[tuple[int, str], int]) -> None:
    living = set(
        Tenant.objects.filter(pk__in={tenant_id for tenant_id, _ in results}).values_list(
            "pk", flat=True
        )
    )
    for (tenant_id, result), count in sorted(results.items()):
        if tenant_id not in living:
            continue
        row, _ = HandOutTally.objects.get_or_create(tenant_id=tenant_id, result=result)
        HandOutTally.objects.filter(pk=row.pk).update(count=F("count") + count)


_writer = WriteBehind("hand-outs", write)
