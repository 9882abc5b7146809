"""A deployment of a hundred thousand people: in every state there is, used and unused, with all
that has happened to them. Made by the database itself, which takes seconds where the vault would
take an hour; what is sealed is a text of the right length that opens nothing."""

import psycopg

from api.keys import create_key
from tokens import isolation
from tokens.keyring import sealing_key
from tokens.models import Tenant
from tokens.tenants import create_tenant

CREDENTIALS, ATTEMPTS, HAND_OUTS, EVENTS = 100_000, 300_000, 200_000, 200_000
# Of one credential, so that a single page has something to go through.
OF_ONE = 5_000
# Who has how many of a hundred.
ONE_TENANT = "acme"
SHARES = {"initech": 55, "acme": 25, "globex": 12, "hooli": 5, "umbrella": 2, "stark": 1}


def fill(owner_url: str, *, now: float) -> dict[str, int]:
    """What was put in. ``owner_url``: of a role that row-level security does not hold for."""
    with isolation.every_tenant():
        for slug in SHARES:
            tenant = create_tenant(slug=slug, actor="bench", now=now)
            sealing_key(tenant)
            for number in range(10):
                create_key(tenant=tenant, label=f"key {number}", actor="bench", now=now)
        ids = dict(Tenant.objects.values_list("slug", "pk"))
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute("SET search_path = oauthvault, public")
        owner.execute("CREATE TEMPORARY TABLE place (place bigint, tenant bigint)")
        of_each = [ids[slug] for slug, share in SHARES.items() for _ in range(share)]
        with owner.cursor() as cursor:
            cursor.executemany("INSERT INTO place VALUES (%s, %s)", list(enumerate(of_each)))
        for statement in _STATEMENTS:
            # The planner's figures are those of a database that has been at work for a while.
            # Statements and values are this module's own; psycopg wants literals only.
            owner.execute(statement % {"now": int(now), "of": ids[ONE_TENANT], **_MEASURES})  # type: ignore[call-overload]
        owner.execute("VACUUM ANALYZE")
        (filled,) = owner.execute("SELECT count(*) FROM claude_oauth_tokens").fetchone() or (0,)
    assert filled == CREDENTIALS, filled
    return {
        "credentials": CREDENTIALS,
        "refreshes": ATTEMPTS + OF_ONE,
        "minutes of hand-outs": HAND_OUTS + OF_ONE,
        "audit records": EVENTS,
    }


_MEASURES = {
    "credentials": CREDENTIALS,
    "attempts": ATTEMPTS,
    "hand_outs": HAND_OUTS,
    "events": EVENTS,
    "of_one": OF_ONE,
}
_STATEMENTS = (
    # Who are they: of every hundred, some in each state.
    """
    INSERT INTO claude_oauth_tokens (
        tenant_id, user_id, account_email, access_token_encrypted, refresh_token_encrypted,
        data_key_id, expires_at, scopes, is_max, subscription_type, refresh_count, last_used,
        last_refreshed_at, created_at, updated_at, standing, suspended_at, generation,
        unanswered_presentations, refresh_due_at, consecutive_failures, problem, problem_at,
        login_expires_at, login_expiry_is_estimate, lease_id, lease_until)
    SELECT place.tenant, 'user-' || lpad(n::text, 6, '0'),
        CASE WHEN n %% 10 < 8 THEN 'person.' || md5(n::text) || '@example.com' ELSE '' END,
        CASE WHEN state = 1 THEN NULL ELSE 'v1.made-up.' || repeat(md5(n::text), 8) END,
        CASE WHEN state IN (1, 2) THEN NULL ELSE 'v1.made-up.' || repeat(md5(n::text), 8) END,
        CASE WHEN state = 1 THEN NULL ELSE key.id END,
        %(now)s + CASE WHEN state IN (2, 3) AND n %% 7 < 4 THEN -(n %% 90000) ELSE n %% 28800 END,
        '["user:inference"]', true, 'max', n %% 400,
        CASE WHEN n %% 13 = 0 THEN NULL ELSE %(now)s - (n %% 120) * 86400 - n %% 3600 END,
        %(now)s - n %% 28800, to_timestamp(%(now)s - 200 * 86400), to_timestamp(%(now)s),
        CASE state WHEN 1 THEN 'revoked' WHEN 3 THEN 'reauthorization_required'
            WHEN 4 THEN 'quarantined' ELSE 'active' END,
        CASE WHEN state = 5 THEN %(now)s - 5000 END, 1 + n %% 400,
        CASE WHEN state = 6 THEN 1 ELSE 0 END,
        CASE WHEN state IN (1, 2, 3, 4) THEN NULL ELSE %(now)s + n %% 28000 END,
        CASE WHEN state = 7 THEN 1 + n %% 6 ELSE 0 END,
        CASE state WHEN 3 THEN 'rotated_elsewhere' WHEN 7 THEN 'upstream_unavailable' ELSE '' END,
        CASE WHEN state IN (3, 7) THEN %(now)s - n %% 9000 END,
        CASE WHEN state = 2 THEN NULL ELSE %(now)s + (n %% 28) * 86400 + n %% 3600 END, n %% 2 = 0,
        CASE WHEN state = 8 THEN gen_random_uuid() END,
        CASE WHEN state = 8 THEN %(now)s + 40 END
    FROM generate_series(1, %(credentials)s) AS n
    JOIN place ON place.place = n %% 100
    JOIN tokens_datakey AS key ON key.tenant_id = place.tenant AND key.retired_at IS NULL
    CROSS JOIN LATERAL (SELECT abs(hashtext(n::text)) %% 1000 AS chance) AS thrown
    CROSS JOIN LATERAL (SELECT CASE WHEN chance < 20 THEN 1 WHEN chance < 40 THEN 2
        WHEN chance < 65 THEN 3 WHEN chance < 67 THEN 4 WHEN chance < 77 THEN 5
        WHEN chance < 80 THEN 6 WHEN chance < 97 THEN 7 WHEN chance < 99 THEN 8
        ELSE 0 END AS state) AS decided
    """,
    "CREATE TEMPORARY TABLE one AS SELECT tenant_id, id, user_id FROM claude_oauth_tokens "
    "WHERE consecutive_failures > 0 AND tenant_id = %(of)s ORDER BY user_id LIMIT 1",
    # What has happened to them: refreshes of the last week,
    """
    INSERT INTO tokens_refreshattempt (tenant_id, credential_id, lease_id, cause, actor,
        generation, started_at, ended_at, outcome, upstream_status, tries, latency_ms, answer_saved)
    SELECT held.tenant_id, held.id, gen_random_uuid(), 'sweep', 'scheduler', 1, at, at + 0.4,
        CASE WHEN k %% 50 = 0 THEN 'unreachable' WHEN k %% 151 = 0 THEN 'invalid_grant'
            WHEN k %% 211 = 0 THEN 'rate_limited' ELSE 'refreshed' END,
        200, 1, 150 + k %% 700, true
    FROM (SELECT id, tenant_id, row_number() OVER (ORDER BY id) AS place
        FROM claude_oauth_tokens) AS held
    JOIN generate_series(1, %(attempts)s) AS k ON held.place = 1 + k %% %(credentials)s
    CROSS JOIN LATERAL (SELECT %(now)s - (k::bigint * 7919) %% 604800 AS at) AS moment
    """,
    """
    INSERT INTO tokens_refreshattempt (tenant_id, credential_id, lease_id, cause, actor,
        generation, started_at, ended_at, outcome, upstream_status, tries, latency_ms, answer_saved)
    SELECT tenant_id, id, gen_random_uuid(), 'sweep', 'scheduler', k, %(now)s - k * 500,
        %(now)s - k * 500 + 1, 'unreachable', 503, 3, 900, false
    FROM one, generate_series(1, %(of_one)s) AS k
    """,
    # tokens that they were handed,
    """
    INSERT INTO tokens_handout (tenant_id, credential_id, actor, minute, count)
    SELECT held.tenant_id, held.id, 'key ovs_' || lpad((k %% 20)::text, 8, '0'),
        %(now)s / 60 - (k * 31) %% 2880, 1 + k %% 9
    FROM (SELECT id, tenant_id, row_number() OVER (ORDER BY id) AS place
        FROM claude_oauth_tokens) AS held
    JOIN generate_series(1, %(hand_outs)s) AS k ON held.place = 1 + k %% %(credentials)s
    ON CONFLICT DO NOTHING
    """,
    """
    INSERT INTO tokens_handout (tenant_id, credential_id, actor, minute, count)
    SELECT tenant_id, id, 'key ovs_Ab12Cd34', %(now)s / 60 - k, 1 + k %% 5
    FROM one, generate_series(1, %(of_one)s) AS k
    """,
    # and the trail of it.
    """
    INSERT INTO tokens_auditevent (tenant_id, tenant_slug, at, actor, action, subject, outcome,
        address, request_id, detail, uid, digest)
    SELECT held.tenant_id, tenant.slug, %(now)s - (k * 37) %% 2592000,
        CASE WHEN k %% 10 = 0 THEN 'operator olga' || k %% 30 WHEN k %% 3 = 0
            THEN 'key ovs_' || lpad((k %% 20)::text, 8, '0') ELSE 'scheduler' END,
        CASE WHEN k %% 1000 = 0 THEN 'revoke' WHEN k %% 100 = 0 THEN 'suspend'
            WHEN k %% 10 = 0 THEN 'import' ELSE 'refresh' END,
        CASE WHEN k <= %(of_one)s THEN one.user_id ELSE held.user_id END,
        CASE WHEN k %% 70 = 0 THEN 'unreachable' WHEN k %% 10 = 0 THEN 'done' ELSE 'refreshed' END,
        '10.0.0.1', CASE WHEN k %% 3 = 0 THEN md5(k::text) ELSE '' END, '{}', gen_random_uuid(), ''
    FROM (SELECT id, tenant_id, user_id, row_number() OVER (ORDER BY id) AS place
        FROM claude_oauth_tokens) AS held
    JOIN generate_series(1, %(events)s) AS k ON held.place = 1 + k %% %(credentials)s
    JOIN tokens_tenant AS tenant ON tenant.id = held.tenant_id
    CROSS JOIN one
    """,
    """
    INSERT INTO tokens_tenantstatistics (tenant_id, refreshes_succeeded, refreshes_failed,
        auth_failures)
    SELECT id, 100000, 900, 50 FROM tokens_tenant ON CONFLICT DO NOTHING
    """,
)
