"""The audit trail: one record per act, written in the transaction of the act itself."""

from typing import Any

from oauthvault.middleware import current_request_id
from tokens.models import AuditEvent, Tenant


def record(
    *,
    tenant: Tenant,
    actor: str,
    action: str,
    now: float,
    subject: str = "",
    outcome: str = "done",
    **detail: Any,
) -> AuditEvent:
    """Write down that ``actor`` did ``action`` to the credential of user ``subject``.

    ``actor`` is a name that means something to an operator (``key ovs_Ab12Cd34``,
    ``operator alice``, ``scheduler``, ``environment``). ``detail`` holds no secret.
    """
    request_id = current_request_id.get()
    return AuditEvent.objects.create(
        tenant=tenant,
        at=now,
        actor=actor[:200],
        action=action,
        subject=subject,
        outcome=outcome,
        request_id="" if request_id == "-" else request_id,
        detail=detail,
    )
