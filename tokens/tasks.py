"""The clock's rooms: what beat starts. Tasks are thin, and harmless when delivered twice."""

from collections.abc import Sequence

from celery import shared_task
from django.conf import settings
from django.db.models import Q

from tokens import clock
from tokens.errors import VaultError
from tokens.models import Cause, Heartbeat, OAuthCredential
from tokens.refresh import refresh, settle_abandoned

_PAGE = 500
_CHUNK = 10
# Seconds for which a credential that was published is not published again.
_PUBLISHED_FOR = 60

Due = tuple[int, int, int]  # tenant, credential, generation


@shared_task(name="tokens.sweep")
def sweep() -> int:
    """Publish a refresh for everything due; the number published."""
    now = clock.now()
    Heartbeat.objects.update_or_create(part="scheduler", defaults={"at": now})
    settle_abandoned(now=now)
    if not settings.CLAUDE_OAUTH_AUTO_REFRESH:
        return 0
    published = 0
    while page := _take_due(now=now):
        for start in range(0, len(page), _CHUNK):
            refresh_credentials.delay(page[start : start + _CHUNK])
        published += len(page)
        if len(page) < _PAGE:
            break
    return published


@shared_task(name="tokens.refresh_credentials")
def refresh_credentials(
    due: Sequence[Due], cause: str = Cause.SWEEP, actor: str = "scheduler"
) -> None:
    """Refresh each (tenant, credential, generation), unless it has moved on since."""
    for tenant_id, credential_id, generation in due:
        try:
            refresh(
                tenant_id=tenant_id,
                credential_id=credential_id,
                generation=generation,
                cause=Cause(cause),
                actor=actor,
            )
        except VaultError:
            # Said in the attempt or, for a deployment-wide pause, found again by the sweep.
            continue


def _take_due(*, now: float) -> list[Due]:
    """A page of what is due, taken so that no other sweep publishes it in the next minute."""
    due = list(
        OAuthCredential.objects.due(now=now)
        .filter(Q(tenant__auto_refresh=None) | Q(tenant__auto_refresh=True))
        .filter(tenant__suspended_at=None, suspended_at=None)
        .values_list("tenant_id", "pk", "generation")[:_PAGE]
    )
    taken = []
    for tenant_id, credential_id, generation in due:
        if OAuthCredential.objects.filter(
            tenant_id=tenant_id,
            pk=credential_id,
            generation=generation,
            refresh_due_at__lte=int(now),
        ).update(refresh_due_at=int(now) + _PUBLISHED_FOR):
            taken.append((tenant_id, credential_id, generation))
    return taken
