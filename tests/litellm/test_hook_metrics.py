"""What the hook counts, as Prometheus reads it."""

from oauthvault_litellm.metrics import PrometheusMetrics
from prometheus_client import CollectorRegistry, generate_latest


def test_every_count_has_its_name() -> None:
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    metrics.attempt("token")
    metrics.attempt("api_key", "no_token")
    metrics.served("stale")
    metrics.asked("not_modified", 0.004)
    metrics.circuit(True)
    metrics.refused_upstream("replaced")
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'oauthvault_litellm_requests_total{code="",paid_by="token"} 1.0',
        'oauthvault_litellm_requests_total{code="no_token",paid_by="api_key"} 1.0',
        'oauthvault_litellm_tokens_served_total{source="stale"} 1.0',
        'oauthvault_litellm_vault_question_seconds_bucket{le="0.005",outcome="not_modified"} 1.0',
        "oauthvault_litellm_vault_circuit_open 1.0",
        'oauthvault_litellm_upstream_401_total{outcome="replaced"} 1.0',
    ):
        assert line in lines
