"""Records from before there were chains: which they are is said once, under the audit key.

They have no digest, and nothing tells one of them from a record that somebody inserted. But
no record was ever written with the audit key before there was one. So what is in the table at
the moment when that key is made is old, and nothing else ever is: the highest id of each chain
is noted with a keyed digest, in the transaction that makes the key.
"""

import json
import logging
from collections.abc import Callable

from django.db.models import Max

from tokens.models import AuditChain, AuditEvent, Tenant

logger = logging.getLogger(__name__)

# The digest of a text under the audit key.
Digest = Callable[[str], str]


def vouch(digest: Digest) -> None:
    """Note for each chain up to which id its records are old. Part of the transaction that
    makes the audit key; whoever calls it is at work for every tenant."""
    slugs = dict(Tenant.objects.values_list("pk", "slug"))
    highest = AuditEvent.objects.order_by().values_list("tenant_id").annotate(Max("pk"))
    for tenant_id, last in highest:
        AuditChain.objects.update_or_create(
            pk=tenant_id or 0,
            defaults={
                "tenant_id": tenant_id,
                "tenant_slug": slugs.get(tenant_id, ""),
                "adopted_to": last,
                "adopted_digest": digest(_text(tenant_id or 0, last)),
            },
        )


def adopted_to(chain_id: int, *, digest: Digest) -> int:
    """The highest id of an old record of this chain; 0 if it has none, or if the note is not
    the vault's."""
    chain = AuditChain.objects.filter(pk=chain_id).exclude(adopted_to=None).first()
    if chain is None or chain.adopted_to is None:
        return 0
    if chain.adopted_digest != digest(_text(chain_id, chain.adopted_to)):
        logger.critical("up to where audit chain %s is from before the chains was edited", chain_id)
        return 0
    return chain.adopted_to


def _text(chain_id: int, highest: int) -> str:
    return json.dumps(["adopted to", chain_id, highest])
