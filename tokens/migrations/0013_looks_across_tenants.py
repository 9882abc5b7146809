"""PostgreSQL: the sweep looks across tenants by functions that give ids and counts only.

What they judge is judged in `tokens.line` too, for a tenant by itself and for other databases; a
test compares them.
"""

from django.db import migrations

from tokens.models.wall import looks_across

_DUE = "c.refresh_due_at IS NOT NULL AND c.refresh_due_at <= floor(moment)::bigint"
_TAKEN = "c.taken_until > moment AND c.taken_until <= moment + longest_mark"
_CLOCK = "(EXTRACT(EPOCH FROM clock_timestamp())::double precision + clock_offset)"
_LEASED = f"c.lease_until > {_CLOCK} AND c.lease_until <= {_CLOCK} + longest_lease"
_REFRESHING = "t.suspended_at IS NULL AND t.auto_refresh IS NOT FALSE"
_WAITING = (
    f"{_DUE} AND c.suspended_at IS NULL AND ({_TAKEN}) IS NOT TRUE AND ({_LEASED}) IS NOT TRUE"
)
_UNTRIED = "c.unanswered_presentations = 0"
_PROVEN = f"{_UNTRIED} AND c.refresh_count > 0"
# Unix seconds and seconds. That of the clock is what only tests set.
_MOMENT = (
    "moment double precision, longest_mark double precision, longest_lease double precision, "
    "clock_offset double precision"
)


class Migration(migrations.Migration):
    dependencies = [("tokens", "0012_roles")]

    operations = [
        looks_across(
            "anything_due",
            takes="moment double precision",
            gives="found boolean",
            # The first of the index says it, however many rows there are before one that is due.
            query="""
                SELECT coalesce(min(c.refresh_due_at) <= floor(moment)::bigint, false)
                FROM claude_oauth_tokens c WHERE c.refresh_due_at IS NOT NULL
            """,
        ),
        looks_across(
            "line_due",
            takes=f"{_MOMENT}, kind text, most bigint",
            gives="tenant_id bigint, credential_id bigint",
            query=f"""
                SELECT c.tenant_id, c.id FROM claude_oauth_tokens c
                WHERE {_WAITING}
                AND EXISTS (
                    SELECT FROM tokens_tenant t WHERE t.id = c.tenant_id AND {_REFRESHING}
                )
                AND CASE kind
                    WHEN 'any' THEN true
                    WHEN 'untried' THEN {_UNTRIED}
                    WHEN 'proven' THEN {_PROVEN}
                    WHEN 'sound' THEN {_PROVEN} AND c.consecutive_failures = 0
                END
                ORDER BY c.refresh_due_at LIMIT most
            """,
        ),
        looks_across(
            "tenants_due",
            takes=f"{_MOMENT}, beside bigint[], most bigint",
            gives="tenant_id bigint",
            # In order, so that the first of each is taken from its index, and not looked for.
            query=f"""
                SELECT t.id FROM tokens_tenant t
                CROSS JOIN LATERAL (
                    SELECT FROM claude_oauth_tokens c WHERE c.tenant_id = t.id AND {_WAITING}
                    ORDER BY c.refresh_due_at LIMIT 1
                ) AS its_first
                WHERE {_REFRESHING} AND t.id <> ALL (beside)
                LIMIT most
            """,
        ),
        looks_across(
            "refreshes_under_way",
            takes="moment double precision, longest_mark double precision",
            gives="tenant_id bigint, refreshes bigint",
            query=f"""
                SELECT c.tenant_id, count(*) FROM claude_oauth_tokens c
                WHERE {_TAKEN} GROUP BY c.tenant_id
            """,
        ),
    ]
