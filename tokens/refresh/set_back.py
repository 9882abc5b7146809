"""Leases that a clock which was far ahead has given, and which would last until it is that late."""

from django.conf import settings
from django.db.models import Case, FloatField, QuerySet, Value, When
from django.db.models.functions import Cast

from tokens.clock import DatabaseNow
from tokens.models import OAuthCredential
from tokens.models.credential import longest_lease


def cut_short(rows: QuerySet[OAuthCredential], *, now: float) -> int:
    """Leases with more left than any can have end as those that are given now; how many.

    Not at once: whoever holds one may be at work while the clock is set back, and its
    refresh token must not be presented beside it.
    """
    lease_end = Cast(
        DatabaseNow() + Value(settings.REFRESH_LEASE, output_field=FloatField()), FloatField()
    )
    looked_at = int(now + settings.REFRESH_LEASE) + 2
    return rows.filter(lease_until__gt=DatabaseNow() + longest_lease()).update(
        lease_until=lease_end,
        taken_until=lease_end,
        # The claim has put it off by the same clock.
        refresh_due_at=Case(When(refresh_due_at=None, then=None), default=Value(looked_at)),
    )
