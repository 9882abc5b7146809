"""Records of the trail by a few words: who, whom, in which request, what, and on which day."""

import re
from datetime import UTC, datetime

from django.db.models import Q

from tokens.models import AuditChain, Tenant

_DAY = 86_400
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# Before the name of an actor (`tokens.audit.record`).
_KINDS = ("operator", "key")
# More words than that are one text, and not so many questions.
_MOST_WORDS = 8


def matching(text: str) -> Q:
    """What every word of ``text`` finds: the beginning of an actor (with or without its kind), of
    the user concerned or of a request's id; a whole action or slug of a tenant; a day (UTC).

    Beginnings, so that a million records are not read for it: each is served by an index.
    """
    found = Q()
    words = []
    for word in text.split():
        day = day_of(word)
        if day is None:
            words.append(word)
        else:
            found &= Q(at__gte=day, at__lt=day + _DAY)
    if not words:
        return found
    # Names may have several words themselves.
    whole = _begins_with(" ".join(words)) if len(words) > 1 else Q(pk__in=[])
    if len(words) > _MOST_WORDS:
        return found & whole
    each = Q()
    for word in words:
        each &= _named(word)
    return found & (each | whole)


def day_of(word: str) -> float | None:
    """The Unix time at which the day ``2026-01-31`` begins (UTC); None: it is no day."""
    if not _DATE.fullmatch(word):
        return None
    try:
        return datetime.fromisoformat(word).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _named(word: str) -> Q:
    found = _begins_with(word) | Q(action=word.lower())
    # The chain stays when the tenant is gone, and the tenant is there before its chain.
    tenants = {
        *AuditChain.objects.filter(tenant_slug=word, tenant_id__gt=0).values_list("pk", flat=True),
        *Tenant.objects.filter(slug=word).values_list("pk", flat=True),
    }
    return found | Q(tenant_id__in=sorted(tenants)) if tenants else found


def _begins_with(text: str) -> Q:
    found = Q()
    for written in dict.fromkeys((text, text.lower())):
        found |= Q(subject__begins=written) | Q(request_id__begins=written)
        for kind in ("", *(f"{kind} " for kind in _KINDS)):
            found |= Q(actor__begins=f"{kind}{written}")
    return found
