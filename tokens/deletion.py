"""The end of a tenant: its keys first, so that nothing of it can be read, then its rows.

1. **Begun.** In one transaction it is suspended and marked. From then on it cannot be resumed,
   and nothing that was not under way is handed out, refreshed or imported.
2. **Upstream is told** of each login, as far as that goes and for a minute at most.
3. **Shredded.** In one transaction its data keys are destroyed, and every sealed token with
   them; ``generation`` rises, so that a refresh under way finds nothing to revive.
4. **Cleared.** Its rows go in small batches, and the tenant itself with the last of them.

Each step is committed by itself, and each asks the database what is left: whoever goes on
after a kill does so where the last one stopped, and two who do it at once do no harm. The
audit trail stays.
"""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import CASCADE, F, ForeignKey, QuerySet
from django.db.models.fields.reverse_related import ForeignObjectRel

from tokens import audit, clock, isolation, vault
from tokens.errors import NoToken
from tokens.models import (
    DEFAULT_TENANT,
    DataKey,
    OAuthCredential,
    Problem,
    Standing,
    Tenant,
)
from tokens.tenants import BadTenantRequest

logger = logging.getLogger(__name__)

_BATCH = 500
# Upstream is told for so many seconds since the deletion began, by so many threads, and no
# longer once so many in a row had no success: a server that is down must not keep keys alive.
_TELLING, _TELLERS, _PATIENCE = 60.0, 8, 8
_CHANCES = 3


@dataclass
class Told:
    """What this call did. Of the logins upstream: ``revoked``, ``failed``, and ``untold``, which
    were only shredded here. ``rows``: how many were deleted. ``finished``: nothing is left."""

    revoked: int = 0
    failed: int = 0
    untold: int = 0
    rows: int = 0
    finished: bool = False


def refuse_deletion(tenant: Tenant) -> None:
    """BadTenantRequest for the tenant that the environment feeds: the next start would make
    it, its key and its credential again."""
    feeding = [
        name
        for name in ("CLAUDE_ACCESS_TOKEN", "OAUTHVAULT_SERVICE_KEY")
        if getattr(settings, name) is not None
    ]
    if tenant.slug == DEFAULT_TENANT and feeding:
        raise BadTenantRequest(
            f"tenant {DEFAULT_TENANT} is the one that {' and '.join(feeding)} "
            f"{'feeds' if len(feeding) == 1 else 'feed'}: the next start would fill it again. "
            "Take that out of the environment of every process first"
        )


def begin(*, tenant: Tenant, actor: str, now: float) -> None:
    """Suspend the tenant and mark it for deletion, for good. Harmless when it is marked."""
    refuse_deletion(tenant)
    at = datetime.fromtimestamp(now, UTC)
    with isolation.of(tenant.pk), transaction.atomic():
        row = Tenant.objects.select_for_update().get(pk=tenant.pk)
        if row.deletion_began_at is not None:
            return
        Tenant.objects.filter(pk=row.pk).update(
            suspended_at=row.suspended_at or at, deletion_began_at=at
        )
        audit.record(
            tenant=row, actor=actor, action="delete_tenant", outcome="begun", now=now,
            slug=row.slug,
        )  # fmt: skip


def go_on(*, tenant: Tenant, actor: str, seconds: float | None = None) -> Told:
    """Go on with a deletion that was begun, to its end or for about so many seconds."""
    told = Told()
    ends = None if seconds is None else time.monotonic() + seconds
    for _ in steps(tenant=tenant, actor=actor, told=told):
        if ends is not None and time.monotonic() >= ends:
            break
    return told


def go_on_with_all(*, seconds: float) -> int:
    """Go on with every deletion that was begun and is not finished, for about so many seconds
    together; how many ended. For the sweep."""
    ends, ended = time.monotonic() + seconds, 0
    with isolation.every_tenant():
        begun = list(Tenant.objects.filter(deletion_began_at__isnull=False).order_by("pk"))
    for tenant in begun:
        left = ends - time.monotonic()
        if left <= 0:
            break
        ended += go_on(tenant=tenant, actor="scheduler", seconds=left).finished
    return ended


def of_upstream(told: Told) -> str:
    """What became of the logins on the other side, for a person."""
    if told.revoked + told.failed + told.untold == 0:
        return "There was no login left to end upstream."
    said = [f"Upstream revoked {told.revoked} of its logins."] if told.revoked else []
    if left := told.failed + told.untold:
        logins = "1 login" if left == 1 else f"{left} logins"
        why = "was not asked to" if settings.CLAUDE_OAUTH_REVOKE_URL is None else "did not"
        said.append(
            f"Upstream {why} revoke {logins}: access tokens that were handed out before may live "
            "to their own end."
        )
    return " ".join(said)


def steps_left(tenant: Tenant) -> int:
    """About how many steps there are still to go, for a bar."""
    with isolation.of(tenant.pk):
        batches = sum(-(-rows.count() // _BATCH) for rows in _rows_of(tenant))
        turns = -(-_living(tenant).count() // _TELLERS) if _may_tell(tenant) else 0
    return turns + batches + 2


def steps(*, tenant: Tenant, actor: str, told: Told) -> Iterator[None]:
    """The deletion, step by step; between two of them everything is committed."""
    with isolation.of(tenant.pk):
        still = Tenant.objects.filter(pk=tenant.pk).first()
    if still is None:
        told.finished = True
        return
    if still.deletion_began_at is None:
        raise BadTenantRequest(f"the deletion of tenant {tenant.slug} was not begun")
    for step in (_tell_upstream, _shred, _clear):
        for _ in step(still, actor, told):
            yield
    told.finished = True


def _tell_upstream(tenant: Tenant, actor: str, told: Told) -> Iterator[None]:
    """Revoke each login, here and upstream, several at a time."""
    in_vain = 0
    while in_vain < _PATIENCE and _may_tell(tenant):
        with isolation.of(tenant.pk):
            users = list(_living(tenant).values_list("user_id", flat=True)[:_TELLERS])
        if not users:
            return
        with ThreadPoolExecutor(_TELLERS, thread_name_prefix="telling") as pool:
            results = list(pool.map(lambda user_id: _revoke(tenant, user_id, actor), users))
        for agreed in results:
            told.revoked += agreed is True
            told.failed += agreed is False
            in_vain = 0 if agreed else in_vain + 1
        yield


def _revoke(tenant: Tenant, user_id: str, actor: str) -> bool | None:
    """Whether upstream agreed; None: somebody else has revoked it in this moment."""
    try:
        with isolation.of(tenant.pk):
            done = vault.revoke(tenant=tenant, user_id=user_id, actor=actor, now=clock.now())
            return done.upstream == "revoked"
    except NoToken:
        return None
    finally:
        connection.close()


def _shred(tenant: Tenant, actor: str, told: Told) -> Iterator[None]:
    """Destroy the data keys, in a transaction of its own."""
    with isolation.of(tenant.pk):
        if not DataKey.objects.filter(tenant=tenant).exists():
            return
        now = clock.now()
        with transaction.atomic():
            untold = _living(tenant).count()
            # A sealed token without its key is of no use to anybody. The row says revoked, and
            # is of another generation: whatever is under way has nothing to come home to.
            OAuthCredential.objects.for_tenant(tenant).filter(data_key__isnull=False).update(
                access_token_encrypted=None,
                refresh_token_encrypted=None,
                data_key=None,
                standing=Standing.REVOKED,
                generation=F("generation") + 1,
                lease_id=None,
                lease_until=None,
                refresh_due_at=None,
                taken_until=None,
                announce_at=None,
                unanswered_presentations=0,
                problem=Problem.NONE,
                problem_at=None,
            )
            keys = DataKey.objects.filter(tenant=tenant).delete()[0]
            audit.record(
                tenant=tenant, actor=actor, action="delete_tenant", outcome="shredded", now=now,
                slug=tenant.slug, data_keys=keys, upstream_not_told=untold,
            )  # fmt: skip
    told.untold += untold
    logger.info("the data keys of tenant %s are destroyed", tenant.slug)
    yield


def _clear(tenant: Tenant, actor: str, told: Told) -> Iterator[None]:
    """Delete the rows, each table before those it points to, and then the tenant."""
    for chance in range(_CHANCES):
        try:
            with isolation.of(tenant.pk):
                tables = list(_rows_of(tenant))
            for rows in tables:
                while deleted := _delete_batch(rows, tenant):
                    told.rows += deleted
                    yield
            _delete_tenant(tenant, actor)
        except IntegrityError:
            # Something that was under way when it was suspended was written in between.
            if chance + 1 == _CHANCES:
                raise
        else:
            yield
            return


def _delete_batch(rows: QuerySet[Any], tenant: Tenant) -> int:
    with isolation.of(tenant.pk), transaction.atomic():
        batch = list(rows.order_by("pk").values_list("pk", flat=True)[:_BATCH])
        if batch:
            rows.filter(pk__in=batch).delete()
    return len(batch)


def _delete_tenant(tenant: Tenant, actor: str) -> None:
    with isolation.of(tenant.pk), transaction.atomic():
        # Locked first: nothing that points to it is written any more.
        row = Tenant.objects.select_for_update().filter(pk=tenant.pk).first()
        if row is None:
            return
        audit.record(
            tenant=row, actor=actor, action="delete_tenant", outcome="done", now=clock.now(),
            slug=row.slug,
        )  # fmt: skip
        row.delete()
    logger.info("tenant %s is deleted", tenant.slug)


def _rows_of(tenant: Tenant) -> Iterator[QuerySet[Any]]:
    """The tenant's rows of every table whose rows go with it, each table before those that it
    points to. Read from the models: a table that is new tomorrow is among them."""
    columns = {
        relation.related_model: relation.field.attname
        for relation in Tenant._meta.get_fields(include_hidden=True)
        if isinstance(relation, ForeignObjectRel)
        and getattr(relation, "on_delete", None) is CASCADE
    }
    left = set(columns)
    while left:
        pointed_to = {
            pointer.related_model
            for model in left
            for pointer in model._meta.get_fields()
            if isinstance(pointer, ForeignKey) and pointer.related_model is not model
        }
        for model in sorted(left - pointed_to, key=lambda model: model._meta.label):
            yield model._default_manager.filter(**{columns[model]: tenant.pk})
        left &= pointed_to


def _living(tenant: Tenant) -> QuerySet[OAuthCredential]:
    return (
        OAuthCredential.objects.for_tenant(tenant).exclude(standing=Standing.REVOKED).order_by("pk")
    )


def _may_tell(tenant: Tenant) -> bool:
    """Whether upstream can be told of a revocation, and there is time to."""
    if settings.CLAUDE_OAUTH_REVOKE_URL is None or tenant.deletion_began_at is None:
        return False
    return clock.now() - tenant.deletion_began_at.timestamp() < _TELLING
