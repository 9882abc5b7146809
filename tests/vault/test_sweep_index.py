"""A sweep with nothing due costs the same with a thousand rows as with a million."""

import time

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import Q

from tokens import endings
from tokens.clock import DatabaseNow
from tokens.models import OAuthCredential, Outcome, RefreshAttempt, Standing, Tenant

pytestmark = pytest.mark.django_db


def plan(queryset) -> str:  # type: ignore[no-untyped-def]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # What earlier tests have left in the statistics, and in the indexes, is no choice.
            cursor.execute("ANALYZE")
            # Empty tables are read whole whatever indexes they have; this asks for the choice.
            cursor.execute("SET LOCAL enable_seqscan = off")
    return str(queryset.explain())


@pytest.fixture
def many(acme: Tenant) -> None:
    """Rows that none of the partial indexes has."""
    OAuthCredential.objects.bulk_create(
        OAuthCredential(tenant=acme, user_id=f"user-{number}", expires_at=1, standing="revoked")
        for number in range(2000)
    )


@pytest.mark.usefixtures("many")
def test_what_is_due_is_found_by_its_partial_index() -> None:
    assert "credential_due" in plan(OAuthCredential.objects.due(now=time.time())[:500])


@pytest.mark.usefixtures("many")
def test_what_a_killed_process_left_is_found_by_partial_indexes() -> None:
    exhausted = OAuthCredential.objects.filter(
        standing=Standing.ACTIVE,
        unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
        lease_until__lt=time.time(),
    )
    assert "credential_exhausted" in plan(exhausted)
    in_flight = RefreshAttempt.objects.filter(
        Q(started_at__lt=time.time()) | Q(started_at__gt=time.time() + 1800),
        outcome=Outcome.IN_FLIGHT,
    ).order_by()
    assert "attempt_in_flight" in plan(in_flight)
    ahead = OAuthCredential.objects.filter(
        taken_until__gt=time.time() + 1800, lease_until__gt=DatabaseNow() + 1800.0
    ).order_by()
    assert "credential_taken" in plan(ahead)


@pytest.mark.usefixtures("many")
def test_what_is_to_be_announced_is_found_by_its_partial_index() -> None:
    assert "credential_announce" in plan(endings.due(now=time.time())[:200])
