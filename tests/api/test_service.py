"""How the vault itself is: health, statistics, metrics, signs of life."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery import Celery
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from api import health
from oauthvault import __version__
from tests.api.conftest import Caller
from tests.conftest import MakeKey, Store
from tests.simulator import Simulator
from tokens import handouts, keyring, statistics
from tokens.models import Heartbeat, OAuthCredential, Outcome, Status, Tenant, Upstream
from tokens.secret import EncryptionKey, Secret
from tokens.tenants import create_tenant, suspend_tenant

committed = pytest.mark.django_db(transaction=True)


# --- health ----------------------------------------------------------------------------------


@committed
def test_a_vault_that_is_well_says_so(ask: Caller) -> None:
    Heartbeat.objects.create(part="scheduler", at=time.time())
    answer = ask("GET", "health")
    assert (answer.status, answer.json) == (
        200,
        {
            "status": "healthy",
            "oauth_configured": False,
            "version": __version__,
            "checks": dict.fromkeys(
                (
                    "database",
                    "cache",
                    "broker",
                    "scheduler",
                    "encryption",
                    "spool",
                    "upstream",
                    "quarantine",
                ),
                "ok",
            ),
        },
    )


@committed
def test_any_stored_credential_configures_it(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    assert ask("GET", "health").json["oauth_configured"] is True
    ask("DELETE", "revoke", key=acme_key, user="alice")
    assert ask("GET", "health").json["oauth_configured"] is False


@committed
@pytest.mark.parametrize("age", [None, 3600])
def test_without_its_scheduler_it_is_degraded(ask: Caller, age: float | None) -> None:
    if age is not None:
        Heartbeat.objects.create(part="scheduler", at=time.time() - age)
    body = ask("GET", "health").json
    assert body["status"] == "degraded"
    assert body["checks"]["scheduler"] != "ok"
    assert ask("GET", "/readyz").status == 200


@committed
def test_while_a_429_governs_it_is_degraded_and_says_for_how_long(
    ask: Caller, upstream: Simulator
) -> None:
    Heartbeat.objects.create(part="scheduler", at=time.time())
    assert ask("GET", "health").json["checks"]["upstream"] == "ok"
    Upstream.objects.create(token_url=upstream.token_url, rate_limited_until=time.time() + 600)
    body = ask("GET", "health").json
    assert body["status"] == "degraded"
    assert re.fullmatch(r"asked everybody to wait, \d+ s more", body["checks"]["upstream"])


@committed
def test_without_its_broker_it_is_degraded_and_answers_in_time(
    ask: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    Heartbeat.objects.create(part="scheduler", at=time.time())
    with _deaf_port() as port:
        other = Celery("other", broker=f"redis://127.0.0.1:{port}/0", set_as_current=False)
        monkeypatch.setattr(health, "app", other)
        # The broker answers nobody for as long as the port is open.
        body = ask("GET", "health").json
    assert (body["status"], body["checks"]["broker"]) == ("degraded", "no answer")


@committed
def test_with_keys_that_do_not_open_the_database_it_is_unhealthy(
    ask: Caller, acme: Tenant, store: Store, upstream: Simulator, settings: Settings
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    settings.ENCRYPTION_KEYS = [EncryptionKey("b3RoZXIga2V5LCBvdGhlciBrZXksIG90aGVyIGtleSE=")]
    keyring.forget()
    answer = ask("GET", "health")
    assert (answer.status, answer.json["status"]) == (503, "unhealthy")
    assert answer.json["checks"]["database"] == "ok"
    assert answer.json["checks"]["encryption"] != "ok"
    assert ask("GET", "/readyz").status == 503


def test_without_its_database_it_is_unhealthy_and_answers_in_time(
    ask: Caller, settings: Settings
) -> None:
    """The checks run on threads of their own, whose connections open here a deaf port."""
    with _deaf_port() as port:
        was = connections.settings["default"]
        connections.settings["default"] = {
            **was,
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": port,
            "NAME": "x",
            "USER": "x",
            # Longer than a test may take.
            "OPTIONS": {"connect_timeout": 600},
        }
        try:
            for path in ("health", "/readyz"):
                answer = ask("GET", path)
                assert answer.status == 503
                assert answer.json["checks"]["database"] == "no answer"
                assert answer.json["checks"]["encryption"] == "unknown"
        finally:
            connections.settings["default"] = was
    assert ask("GET", "/livez").json == {"status": "alive"}


# --- statistics ------------------------------------------------------------------------------


@committed
def test_statistics_count_what_the_document_lists(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    for user, life in (("alice", 7200), ("bob", 600), ("dora", -5), ("eve", 7200), ("zed", 7200)):
        store(acme, user, upstream.new_login(user, expires_in=life))
    ask("DELETE", "revoke", key=acme_key, user="zed")
    ask("POST", "refresh", key=acme_key, user="alice")
    upstream.fault("invalid_grant", user="eve")
    assert ask("POST", "refresh", key=acme_key, user="eve").status == 409
    body = ask("GET", "stats", key=acme_key).json
    assert abs(body.pop("as_of") - time.time()) < 30
    assert body == {
        "active_tokens": 2,
        "expiring_soon": 1,
        "expired": 1,
        "reauthorization_required": 1,
        "revoked": 1,
        "refreshes": {
            "total": 2,
            "succeeded": 1,
            "failed": 1,
            "last_24h": {"succeeded": 1, "failed": 1},
        },
        "failed_refresh_attempts": 1,
    }


def test_without_a_key_statistics_are_those_of_the_default_tenant(
    ask: Caller, acme: Tenant, default_tenant: Tenant, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    assert ask("GET", "stats").json["active_tokens"] == 0
    store(default_tenant, "default", upstream.new_login("default"))
    assert ask("GET", "stats").json["active_tokens"] == 1
    # A key that is shown must be good; it is not passed over.
    assert ask("GET", "stats", key="ovs_" + "x" * 43).code == "invalid_key"
    suspend_tenant(tenant=default_tenant, actor="test", now=time.time())
    assert ask("GET", "stats").code == "invalid_key"


def test_statistics_can_be_kept_private(
    ask: Caller, default_tenant: Tenant, make_key: MakeKey, settings: Settings
) -> None:
    settings.OAUTHVAULT_PUBLIC_STATS = False
    answer = ask("GET", "stats")
    assert (answer.status, answer.code) == (401, "invalid_key")
    assert ask("GET", "stats", key=make_key(default_tenant)).status == 200


# --- metrics ---------------------------------------------------------------------------------


def scraped(ask: Caller) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, and the claim that no family is exposed twice."""
    text = ask("GET", "/metrics").text
    families = list(text_string_to_metric_families(text))
    declared = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    samples = [sample for family in families for sample in family.samples]
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples
    }
    assert len(found) == len(samples)
    return found


@committed
def test_metrics_have_the_names_of_the_document_by_tenant(
    ask: Caller, acme: Tenant, globex: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice", expires_in=7200))
    store(acme, "bob", upstream.new_login("bob", expires_in=600))
    store(globex, "carol", upstream.new_login("carol"))
    ask("POST", "refresh", key=acme_key, user="alice")
    ask("POST", "token/rejected", key=acme_key, user="bob", json={"generation": 1})
    Heartbeat.objects.create(part="scheduler", at=time.time() - 7)
    found = scraped(ask)
    name = "litellm_claude_oauth_"
    ours, theirs = (("tenant", "acme"),), (("tenant", "globex"),)
    assert found[f"{name}tokens_active", ours] == 2
    assert found[f"{name}tokens_active", theirs] == 1
    for suffix in ("", "_total"):
        assert found[f"{name}tokens_refreshed{suffix}", ours] == 2
        assert found[f"{name}tokens_refreshed{suffix}", theirs] == 0
        assert found[f"{name}auth_failures{suffix}", ours] == 1
    assert 3500 < found[f"{name}token_expiry_seconds", theirs] <= 3600
    assert found["oauthvault_credentials", (("status", "active"),)] == 3
    assert found["oauthvault_refreshes_overdue", ()] == 0
    assert 7 <= found["oauthvault_scheduler_last_beat_age_seconds", ()] < 12
    assert found["oauthvault_logins_expiring", (("within", "7d"),)] == 0
    assert any(sample.startswith("django_http_requests_total") for sample, _ in found)
    text = ask("GET", "/metrics").text
    assert f"# TYPE {name}tokens_refreshed untyped" in text
    assert f"# TYPE {name}tokens_refreshed_total counter" in text
    assert not any(user in text for user in ("alice", "bob", "carol"))


def test_every_status_is_counted_as_it_is_shown(
    ask: Caller, acme: Tenant, store: Store, upstream: Simulator
) -> None:
    changes: dict[str, dict[str, object]] = {
        "active": {},
        "refreshing": {"lease_id": "0" * 32, "lease_until": time.time() + 30},
        "outcome_unknown": {"unanswered_presentations": 1},
        "suspended": {"suspended_at": 5},
        "quarantined": {"standing": "quarantined", "refresh_due_at": None},
        "expired": {"expires_at": 5, "refresh_token_encrypted": None, "refresh_due_at": None},
    }
    for user, change in changes.items():
        credential = store(acme, user, upstream.new_login(user))
        OAuthCredential.objects.filter(pk=credential.pk).update(**change)
    found = scraped(ask)
    for status in Status:
        counted = found["oauthvault_credentials", (("status", status.value),)]
        assert counted == (status.value in changes)


def test_a_refresh_that_did_not_happen_is_overdue(
    ask: Caller, acme: Tenant, store: Store, upstream: Simulator
) -> None:
    for user in ("alice", "bob", "dora"):
        store(acme, user, upstream.new_login(user))
    OAuthCredential.objects.filter(user_id="alice").update(refresh_due_at=5)
    OAuthCredential.objects.filter(user_id="bob").update(expires_at=5)
    assert scraped(ask)["oauthvault_refreshes_overdue", ()] == 2
    suspend_tenant(tenant=acme, actor="test", now=time.time())
    assert scraped(ask)["oauthvault_refreshes_overdue", ()] == 0


@committed
def test_refreshes_are_counted_by_outcome_and_timed(
    ask: Caller, acme: Tenant, globex: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    for user in ("alice", "eve"):
        store(acme, user, upstream.new_login(user))
    ask("POST", "refresh", key=acme_key, user="alice")
    upstream.fault("invalid_grant", user="eve")
    ask("POST", "refresh", key=acme_key, user="eve")
    found = scraped(ask)

    def outcomes(outcome: str, tenant: str) -> float:
        labels = (("outcome", outcome), ("tenant", tenant))
        return found["oauthvault_refresh_outcomes_total", labels]

    assert [outcomes(each, "acme") for each in ("refreshed", "invalid_grant", "unknown")] == [
        1, 1, 0,
    ]  # fmt: skip
    assert outcomes("refreshed", "globex") == 0, "there before the first one"
    took = "oauthvault_refresh_duration_seconds"
    assert found[f"{took}_count", (("outcome", "refreshed"),)] == 1
    assert 0 <= found[f"{took}_sum", (("outcome", "refreshed"),)] < 30


def test_a_histogram_of_durations_has_each_bucket_hold_those_below_it(
    ask: Caller, acme: Tenant, globex: Tenant
) -> None:
    for tenant, milliseconds in ((acme, 40), (acme, 50), (globex, 700), (acme, 60_000)):
        statistics.count_refresh(tenant=tenant, outcome=Outcome.REFRESHED, latency_ms=milliseconds)
    found = scraped(ask)
    took = "oauthvault_refresh_duration_seconds"
    buckets = {
        dict(labels)["le"]: count
        for (name, labels), count in found.items()
        if name == f"{took}_bucket" and ("outcome", "refreshed") in labels
    }
    assert buckets == {
        "0.05": 2, "0.1": 2, "0.25": 2, "0.5": 2, "1.0": 3, "2.5": 3, "5.0": 3, "10.0": 3,
        "30.0": 3, "+Inf": 4,
    }  # fmt: skip
    assert found[f"{took}_count", (("outcome", "refreshed"),)] == 4
    assert found[f"{took}_sum", (("outcome", "refreshed"),)] == 60.79
    text = ask("GET", "/metrics").text
    assert f"# TYPE {took} histogram" in text


@committed
def test_questions_for_a_token_are_counted_by_what_came_of_them(
    ask: Caller, acme: Tenant, globex: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    for _ in range(3):
        ask("GET", "token", key=acme_key, user="alice")
    handouts.note_refusal(tenant_id=globex.pk, code="no_token")
    handouts.write()
    found = scraped(ask)

    def results(result: str, tenant: str) -> float:
        labels = (("result", result), ("tenant", tenant))
        return found["oauthvault_token_requests_total", labels]

    assert (results("handed_out", "acme"), results("handed_out", "globex")) == (3, 0)
    assert results("no_token", "globex") == 1
    assert "# TYPE oauthvault_token_requests_total counter" in ask("GET", "/metrics").text


def test_logins_are_counted_by_the_days_that_are_left_to_them(
    ask: Caller, acme: Tenant, store: Store, upstream: Simulator
) -> None:
    """Those without a refresh token by the end of their access token."""
    now = int(time.time())
    for user, days in (("alice", 20), ("bob", 6), ("dora", 2), ("eve", 0.5)):
        credential = store(acme, user, upstream.new_login(user))
        OAuthCredential.objects.filter(pk=credential.pk).update(
            login_expires_at=now + int(days * 86_400)
        )
    for user, days in (("setup", 300), ("old-setup", 2)):
        credential = store(acme, user, upstream.new_login(user))
        OAuthCredential.objects.filter(pk=credential.pk).update(
            refresh_token_encrypted=None,
            refresh_due_at=None,
            login_expires_at=None,
            expires_at=now + int(days * 86_400),
        )
    found = scraped(ask)
    assert [
        found["oauthvault_logins_expiring", (("within", within),)] for within in ("7d", "3d", "1d")
    ] == [4, 3, 1]


def test_a_scrape_costs_the_same_however_many_tenants(ask: Caller, acme: Tenant) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            scraped(ask)
        return len(queries)

    cost()  # The first one may read the database's clock as well.
    before = cost()
    for number in range(20):
        create_tenant(slug=f"tenant-{number}", actor="test", now=time.time())
    assert cost() == before <= 15


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [("127.0.0.1", {}, 200), ("::1", {}, 200), ("10.0.0.1", {}, 401), ("", {}, 401),
     *(("127.0.0.1", {name: "x"}, 401) for name in (
         "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Anything",
         "X-Forwarded", "X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP", "CF-Ray",
         "Fastly-Client-IP", "Fly-Client-IP", "X-Cluster-Client-IP", "X-Original-For",
         "X-Envoy-External-Address", "X-ProxyUser-Ip", "Proxy-Connection", "CDN-Loop",
     )),
     *(("127.0.0.1", {"Host": name}, status) for name, status in (
         ("localhost:8000", 200), ("127.0.0.2", 200), ("[::1]:8000", 200),
         ("vault.example", 401), ("10.0.0.1:8000", 401),
     ))],
)  # fmt: skip
def test_without_a_token_only_direct_callers_of_the_loopback_may_scrape(
    ask: Caller, address: str, headers: dict[str, str], status: int, settings: Settings
) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    answer = ask("GET", "/metrics", headers=headers, REMOTE_ADDR=address)
    assert answer.status == status
    if status == 401:
        assert (answer.code, answer.headers["WWW-Authenticate"]) == ("invalid_key", "Bearer")


def test_with_a_token_it_must_be_shown_from_everywhere(ask: Caller, settings: Settings) -> None:
    settings.OAUTHVAULT_METRICS_TOKEN = Secret("token-for-metrics")
    assert ask("GET", "/metrics").status == 401
    assert ask("GET", "/metrics", key="another").status == 401
    assert ask("GET", "/metrics", key="ünïcødé".encode().decode("latin-1")).status == 401
    assert ask("GET", "/metrics", key="token-for-metrics", REMOTE_ADDR="10.0.0.1").status == 200


# --- schema ----------------------------------------------------------------------------------


def test_the_schema_is_openapi_3_1_without_a_warning(tmp_path, ask: Caller) -> None:  # type: ignore[no-untyped-def]
    call_command("spectacular", "--validate", "--fail-on-warn", file=str(tmp_path / "schema.yml"))


def test_every_address_is_described_with_its_problems(schema: dict[str, object]) -> None:
    assert str(schema["openapi"]).startswith("3.1")
    paths = schema["paths"]
    assert isinstance(paths, dict)
    described = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
    assert described == {
        "GET /auth/claude/status",
        "POST /auth/claude/refresh",
        "DELETE /auth/claude/revoke",
        "GET /auth/claude/settings",
        "PUT /auth/claude/settings",
        "GET /auth/claude/health",
        "GET /auth/claude/stats",
        "GET /auth/claude/token",
        "PUT /auth/claude/token",
        "POST /auth/claude/token/rejected",
        "POST /auth/claude/token/identify",
        "GET /auth/claude/credentials",
        "GET /metrics",
        "GET /livez",
        "GET /readyz",
    }
    text = str(schema)
    for secret in ("sk-ant", "ovs_0", "ovu_0"):
        assert secret not in text


@contextmanager
def _deaf_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_the_schema_is_served_as_json_and_as_yaml() -> None:
    client = Client()
    answer = client.get("/api/schema")
    assert answer.json()["openapi"].startswith("3.1")
    yaml = client.get("/api/schema/", headers={"Accept": "application/yaml"})
    assert yaml.content.decode().startswith("openapi: 3.1")


@pytest.mark.django_db
def test_the_page_to_read_it_loads_nothing_from_elsewhere() -> None:
    """The mark, because to close a response looks after the connection that is open."""
    client = Client()
    page = client.get("/api/docs").content.decode()
    sources = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert any("swagger-ui-bundle" in source for source in sources)
    assets = b""
    for source in sources:
        assert source.startswith("/static/"), source
        asset = client.get(source)
        assert asset.status_code == 200
        assets += b"".join(asset)
        asset.close()
    assert "://" not in re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
    assert "<script>" not in page
    assert b"validatorUrl: null" in assets
