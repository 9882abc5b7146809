"""The audit trail: one record per act, written in the transaction of the act itself.

What becomes of the records, sealing and verification among it, is in `tokens.trail`.
"""

import json
import uuid
from typing import Any

from oauthvault.logging import redact
from oauthvault.middleware import current_client_address, current_request_id
from tokens.models import AuditEvent, Tenant
from tokens.trail import digests


def record(
    *,
    tenant: Tenant | None,
    actor: str,
    action: str,
    now: float,
    subject: str = "",
    outcome: str = "done",
    **detail: Any,
) -> AuditEvent:
    """Write down that ``actor`` did ``action`` to the credential of user ``subject``.

    ``actor`` is a name that means something to an operator (``key ovs_Ab12Cd34``,
    ``operator alice``, ``scheduler``, ``environment``). ``detail`` is what JSON can say;
    a value object that holds a secret is a TypeError, and whatever has the shape of a token
    or a key is taken out: the act is recorded, and the secret is not.
    """
    request_id = current_request_id.get()
    event = AuditEvent(
        tenant=tenant,
        tenant_slug=tenant.slug if tenant is not None else "",
        at=float(now),
        actor=redact(actor)[:200],
        action=str(action)[:64],
        # What is taken out may be shorter than what stands for it.
        subject=redact(subject)[:256],
        outcome=str(outcome)[:64],
        address=redact(current_client_address.get())[:64],
        request_id="" if request_id == "-" else redact(request_id)[:64],
        # As it will be read again: what is not JSON is refused here, and nowhere later.
        uid=uuid.uuid4(),
        detail=_without_secrets(json.loads(json.dumps(detail, allow_nan=False))),
    )
    event.digest = digests.of_record(event)
    event.save(force_insert=True)
    return event


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(name): _without_secrets(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    return value
