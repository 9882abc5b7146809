"""Which chains there are, whose they are, and what belongs to none of them."""

from collections.abc import Iterator

from tokens import isolation
from tokens.models import AuditBatch, AuditChain, AuditEvent, Tenant
from tokens.tenants import NoTenant, find_tenant
from tokens.trail import anchor
from tokens.trail.chains import BATCH_HAS_A_CHAIN, RECORD_HAS_A_CHAIN, slug_in
from tokens.trail.finding import MOST_FINDINGS, Finding, Kind


def chains_of(slug: str) -> list[int]:
    """The chains of a tenant by its slug: the living one's, else those of deleted ones; or by
    ``id:17``, whoever has it (``id:0``: the acts of no tenant). NoTenant if there is none."""
    with isolation.every_tenant():
        if slug.startswith("id:"):
            return [_chain_numbered(int(slug.removeprefix("id:")))]
        living = Tenant.objects.filter(slug=slug).first()
        if living is not None:
            return [living.pk]
        gone = AuditEvent.objects.filter(RECORD_HAS_A_CHAIN, tenant_slug=slug).order_by()
        found = set(gone.values_list("tenant_id", flat=True).distinct())
        found |= set(AuditChain.objects.filter(tenant_slug=slug).values_list("pk", flat=True))
        return sorted(id for id in found if type(id) is int and id) or [find_tenant(slug).pk]


def all_chains() -> list[int]:
    """Every chain that the database, or what is kept outside of it, knows of. Chain 0 is among
    them where anything belongs to no chain: what is said of that is said there."""
    with isolation.every_tenant():
        of_records = AuditEvent.objects.filter(RECORD_HAS_A_CHAIN).order_by()
        of_batches = AuditBatch.objects.filter(BATCH_HAS_A_CHAIN).order_by()
        tenants = of_records.values_list("tenant_id", flat=True).distinct()
        found = {tenant_id or 0 for tenant_id in tenants}
        found |= set(of_batches.values_list("chain_id", flat=True).distinct())
        if next(of_no_chain(), None) is not None:
            found.add(0)
    outside = anchor.find()
    return sorted(found | set(outside.heads) | outside.garbled)


def of_no_chain() -> Iterator[Finding]:
    """Records and batches that no chain's verification looks at. Everything else is looked at
    by that of its chain: a record by its batch, or because it has none (or a foreign one)."""
    records = AuditEvent.objects.exclude(RECORD_HAS_A_CHAIN).order_by("pk")
    for pk in records.values_list("pk", flat=True)[:MOST_FINDINGS]:
        yield Finding(Kind.INSERTED, "is of a tenant that cannot be, in no chain", record=pk)
    batches = AuditBatch.objects.exclude(BATCH_HAS_A_CHAIN).order_by("pk")
    for pk in batches.values_list("pk", flat=True)[:MOST_FINDINGS]:
        yield Finding(Kind.INSERTED, f"a batch in a chain that cannot be (its row has id {pk})")


def _chain_numbered(number: int) -> int:
    known = number in all_chains() or Tenant.objects.filter(pk=number).exists()
    if number and not known:
        raise NoTenant(
            f"nothing is known of a tenant with id {number}: `oauthvault list_tenants --json` says "
            "the ids of those there are"
        )
    return number


def name_of(chain_id: int) -> str:
    if not chain_id:
        return "(no tenant)"
    chain = AuditChain.objects.filter(pk=chain_id).first()
    slug = chain.tenant_slug if chain is not None else ""
    return (slug if isinstance(slug, str) else "") or slug_in(chain_id) or f"id:{chain_id}"
