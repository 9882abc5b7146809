"""The audit trail as a chain: sealed in batches, anchored outside, verified, exported, dropped.

    record (keyed digest) ─┐
    record (keyed digest) ─┼─ batch 7 (keyed digest) ── batch 8 ── … ── head ══ anchor outside
    record (keyed digest) ─┘

One chain for each tenant, and one for the acts of no tenant. The key is one of the vault's
own (`tokens.keyring`), so whoever can write the database and nothing else can neither make
a record nor a batch. Whoever holds the KEK can, and whoever can also write the anchors can
cut off the end: `docs/operations.md` says so.
"""
