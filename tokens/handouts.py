"""Who was handed whose token, gathered in memory and written behind the requests.

A request adds one to a number; a thread of this process writes the numbers every few
seconds and when the process ends. A process that is killed loses the last few seconds of
this count, and of nothing else.
"""

import logging
import threading
from collections import Counter

from django.db import DatabaseError, transaction
from django.db.models import F, Q

from tokens.behind import WriteBehind
from tokens.models import HandOut, OAuthCredential

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_counts: Counter[tuple[int, int, str, int]] = Counter()
_last_used: dict[tuple[int, int], int] = {}


def note(*, credential: OAuthCredential, actor: str, now: float) -> None:
    """Count one hand-out of this credential to ``actor``. Touches no database."""
    place = (credential.tenant_id, credential.pk)
    with _lock:
        _counts[(*place, actor[:200], int(now) // 60)] += 1
        _last_used[place] = int(now)
    _writer.wake()


def write() -> None:
    """Write what was gathered. What cannot be written is kept for the next time."""
    with _lock:
        counts, used = dict(_counts), dict(_last_used)
        _counts.clear()
        _last_used.clear()
    if not counts:
        return
    try:
        # In one order everywhere: two processes that lock the same rows must not cross.
        with transaction.atomic():
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
    except DatabaseError:
        with _lock:
            for key, count in counts.items():
                _counts[key] += count
            for place, at in used.items():
                _last_used[place] = max(at, _last_used.get(place, 0))
        logger.warning("the record of hand-outs cannot be written; it is kept and tried again")


_writer = WriteBehind("hand-outs", write)
