"""What is under a record and under a batch: keyed, over one canonical text.

The text must be the same before it is stored and after it is read, from SQLite as from
PostgreSQL: keys sorted, no blanks, and numbers that are whole written as whole (`jsonb`
makes 1e22 of 10000000000000000000000, and no difference between 0 and -0).
"""

import hashlib
import json
from typing import Any

from tokens import keyring
from tokens.models import AuditBatch, AuditEvent

# Of a record's digest, as the batch lists it: 128 bits.
LISTED = 32
# Stands in a batch beside a record that the vault did not write like this.
FORGED = "forged"
# And beside one that the vault wrote, dropped for its age, and finds again.
REPLAYED = "replayed"


def of_record(event: AuditEvent) -> str:
    """The digest of what the record says. Its id is not in it: that is the database's to
    give, and its batch lists it."""
    return keyring.audit_digest(
        canonical(
            [
                "record",
                event.tenant_id,
                event.tenant_slug,
                event.at,
                event.actor,
                event.action,
                event.subject,
                event.outcome,
                event.address,
                event.request_id,
                event.detail,
                str(event.uid) if event.uid is not None else None,
            ]
        )
    )


def of_batch(batch: AuditBatch) -> str:
    return keyring.audit_digest(
        canonical(
            [
                "batch",
                batch.chain_id,
                batch.tenant_id,
                batch.number,
                batch.first_id,
                batch.last_id,
                batch.count,
                batch.newest_at,
                batch.content,
                batch.previous,
                batch.sealed_at,
            ]
        )
    )


def of_dropping(batch: AuditBatch) -> str:
    return keyring.audit_digest(canonical(["dropped", batch.digest, batch.dropped_at]))


def of_list(records: object) -> str:
    """The hash of a batch's list. Not keyed: the batch's own digest covers it."""
    return hashlib.sha256(canonical(records).encode("utf-8")).hexdigest()


def canonical(value: object) -> str:
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
