"""When each key was last used, gathered in memory and written behind the requests.

Once a minute and key at most. A process that is killed loses the last seconds of it.
"""

import logging
import threading

from django.db import DatabaseError
from django.db.models import Q

from api.models import ApiKey
from tokens import isolation
from tokens.behind import WriteBehind

logger = logging.getLogger(__name__)

_ONCE_IN = 60

_lock = threading.Lock()
_used: dict[tuple[int, int], int] = {}


def note(*, key: ApiKey, now: float) -> None:
    """This key was shown and was good. Touches no database."""
    if key.last_used_at is not None and now - key.last_used_at < _ONCE_IN:
        return
    with _lock:
        _used[(key.tenant_id, key.pk)] = int(now)
    _writer.wake()


@isolation.every_tenant()
def write() -> None:
    """Write what was gathered. What cannot be written is kept for the next time."""
    with _lock:
        used = dict(_used)
        _used.clear()
    try:
        for (tenant_id, key_id), at in used.items():
            ApiKey.objects.filter(
                Q(last_used_at=None) | Q(last_used_at__lt=at), tenant_id=tenant_id, pk=key_id
            ).update(last_used_at=at)
    except DatabaseError:
        with _lock:
            for place, at in used.items():
                _used[place] = max(at, _used.get(place, 0))
        logger.warning("the last use of keys cannot be written; it is kept and tried again")


_writer = WriteBehind("key usage", write)
