"""Who did what to whom. Written, never changed: the database itself refuses it (migration 0005)."""

from typing import ClassVar

from django.db import models
from django.db.models import BigIntegerField, Q
from django.db.models.functions import Coalesce

from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant
from tokens.printable import printable

# The chain of the row's own tenant: nobody begins or continues that of another, which could
# not be sealed any more then, since what is in the trail is not deleted.
_OWN_CHAIN = Coalesce("tenant", 0, output_field=BigIntegerField())
# What SQLite takes for larger than any number (a text, say) is not stored either.
_LARGEST = 2**63 - 1
# Nearly everything there is.
WENT_WELL = ("done", "refreshed")


class AuditChain(OfTenant):
    """The chain of one tenant's records (primary key: the tenant's id), or of the acts of no
    tenant (primary key 0).

    Whoever seals holds the lock of this row. What else is in it is for the dashboard; proof
    is in the batches alone. Times are Unix seconds.
    """

    id = models.BigIntegerField(primary_key=True)
    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.DO_NOTHING,
        null=True,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    tenant_slug = models.CharField(max_length=63, blank=True)
    sealed_at = models.FloatField(null=True)
    verified_at = models.FloatField(null=True)
    # What the last verification found first; empty: nothing.
    broken = models.CharField(max_length=300, blank=True)
    # The highest id of a record from before there were chains, and a keyed digest of it, made
    # with the key itself (tokens.trail.adoption).
    adopted_to = models.BigIntegerField(null=True, editable=False)
    adopted_digest = models.CharField(max_length=64, blank=True, editable=False)

    objects = ScopedManager()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(id=_OWN_CHAIN), name="a_chain_is_its_tenants"),
            models.CheckConstraint(
                condition=Q(tenant__gt=0, tenant__lte=_LARGEST),
                name="an_audit_chain_is_of_a_tenant_or_of_none",
            ),
        ]

    def __str__(self) -> str:
        return printable(str(self.tenant_slug)) or "no tenant"


class AuditBatch(OfTenant):
    """A link of a chain: records that were sealed together.

    ``records`` lists their ids and digests in order, ``content`` is the hash of that list, and
    ``digest`` (keyed) covers all of it and the digest of the batch before. Records that were
    dropped for their age leave their batch behind, without its list: ``drop_digest`` (keyed)
    says that it was the vault that dropped them.
    """

    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.DO_NOTHING,
        null=True,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    chain = models.ForeignKey(
        AuditChain, on_delete=models.PROTECT, db_index=False, related_name="batches"
    )
    number = models.BigIntegerField()
    first_id = models.BigIntegerField()
    last_id = models.BigIntegerField()
    count = models.PositiveIntegerField()
    newest_at = models.FloatField()
    records = models.JSONField(default=list)
    content = models.CharField(max_length=64)
    previous = models.CharField(max_length=64, blank=True)
    digest = models.CharField(max_length=64)
    sealed_at = models.FloatField()
    dropped_at = models.FloatField(null=True)
    drop_digest = models.CharField(max_length=64, blank=True)

    objects = ScopedManager()

    class Meta:
        verbose_name_plural = "audit batches"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["chain", "number"], name="one_audit_batch_per_number"),
            models.CheckConstraint(
                condition=Q(chain=_OWN_CHAIN), name="a_batch_is_in_its_tenants_chain"
            ),
            models.CheckConstraint(
                condition=Q(number__gte=1, number__lte=_LARGEST), name="audit_batches_count_from_1"
            ),
            models.CheckConstraint(
                condition=Q(tenant__gt=0, tenant__lte=_LARGEST),
                name="an_audit_batch_is_of_a_tenant_or_of_none",
            ),
        ]
        indexes: ClassVar = [
            # What is old enough to be dropped (tokens.trail.drop).
            models.Index(
                fields=["chain", "newest_at"],
                condition=Q(dropped_at=None),
                name="audit_batch_kept",
            ),
        ]

    def __str__(self) -> str:
        return f"batch {self.number} of chain {self.chain_id}"


class AuditEvent(OfTenant):
    """One act. ``subject`` is the user id concerned, or empty. Never a token, never a key.

    The tenant is kept by value, id and slug, so that the trail of a deleted one stays whole.
    ``digest`` is keyed, and written with the record; ``uid`` makes it unlike any other's.
    Both are empty in records from before there were chains. ``batch``: null until sealed.
    """

    tenant = models.ForeignKey(
        Tenant,
        on_delete=models.DO_NOTHING,
        null=True,
        db_constraint=False,
        related_name="audit_events",
    )
    tenant_slug = models.CharField(max_length=63, blank=True)
    at = models.FloatField()
    actor = models.CharField(max_length=200)
    action = models.CharField(max_length=64)
    subject = models.CharField(max_length=256, blank=True)
    outcome = models.CharField(max_length=64, default="done")
    address = models.CharField(max_length=64, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    detail = models.JSONField(default=dict, blank=True)
    uid = models.UUIDField(null=True, unique=True, editable=False)
    digest = models.CharField(max_length=64, blank=True, editable=False)
    batch = models.ForeignKey(
        AuditBatch, on_delete=models.PROTECT, null=True, editable=False, related_name="events"
    )

    objects = ScopedManager()

    class Meta:
        ordering = ("-at", "-id")
        permissions: ClassVar = [("export_auditevent", "Can export the audit trail")]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(tenant__gt=0, tenant__lte=_LARGEST),
                name="an_audit_record_is_of_a_tenant_or_of_none",
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-at"], name="audit_recent"),
            models.Index(fields=["tenant", "subject", "-at"], name="audit_subject"),
            # What waits to be sealed; nearly empty (tokens.trail.seal).
            models.Index(fields=["tenant", "id"], condition=Q(batch=None), name="audit_unsealed"),
            # The dashboard's page of all tenants: newest first, one act, what did not go well; and
            # by the beginning of who, whom and in which request (tokens.trail.search).
            models.Index(fields=["-at", "-id"], name="audit_newest"),
            models.Index(fields=["action", "-at"], name="audit_action"),
            models.Index(
                fields=["outcome", "-at"],
                condition=~Q(outcome__in=WENT_WELL),
                name="audit_went_wrong",
            ),
            models.Index(fields=["actor"], opclasses=["varchar_pattern_ops"], name="audit_actor"),
            models.Index(
                fields=["subject"], opclasses=["varchar_pattern_ops"], name="audit_by_subject"
            ),
            models.Index(
                fields=["request_id"], opclasses=["varchar_pattern_ops"], name="audit_request"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.subject}".strip()
