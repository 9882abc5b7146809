"""The clock's rooms: what beat starts. Tasks are thin, and harmless when delivered twice."""

import logging
from collections.abc import Sequence

from celery import shared_task
from django.conf import settings
from django.db.models import Q

from tokens import clock
from tokens.errors import VaultError
from tokens.models import Cause, Heartbeat, OAuthCredential
from tokens.refresh import refresh
from tokens.refresh.abandoned import settle_abandoned

logger = logging.getLogger(__name__)

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
            refresh_credentials.apply_async((page[start : start + _CHUNK],), expires=_PUBLISHED_FOR)
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
        except VaultError as refusal:
            # The sweep finds it again; a deployment-wide pause is nobody's fault.
            logger.info("credential %s is not refreshed now: %s", credential_id, refusal.code)
        except Exception:
            # One that cannot be done must not keep the others of this task from theirs.
            logger.exception("the refresh of credential %s could not be done", credential_id)


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
