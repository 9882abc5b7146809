"""What the hook counts, in the proxy's own Prometheus registry; nothing where there is none.

No label says who the caller is. The names are a contract: README.md lists them.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

PaidBy = Literal["token", "api_key", "refused", "other_provider"]
Source = Literal["memory", "vault", "stale"]

# The vault answers in milliseconds, or waits with a caller for a refresh of seconds.
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)


class Metrics(Protocol):
    def attempt(self, paid_by: PaidBy, code: str = "") -> None:
        """One attempt of LiteLLM to send a request on; `code` says why no token paid for it."""

    def served(self, source: Source) -> None:
        """A token was given for a request."""

    def asked(self, outcome: str, seconds: float) -> None:
        """The vault was asked."""

    def circuit(self, is_open: bool) -> None:
        """Whether the vault is asked at all, by this process."""

    def refused_upstream(self, outcome: str) -> None:
        """A 401 was reported to the vault: `replaced`, or the code of its refusal."""


class NoMetrics:
    """Where nobody counts."""

    def attempt(self, paid_by: PaidBy, code: str = "") -> None: ...

    def served(self, source: Source) -> None: ...

    def asked(self, outcome: str, seconds: float) -> None: ...

    def circuit(self, is_open: bool) -> None: ...

    def refused_upstream(self, outcome: str) -> None: ...


class PrometheusMetrics:
    """Values only, no collector of our own: those are left out where several processes count
    together (PROMETHEUS_MULTIPROC_DIR)."""

    def __init__(self, registry: Any) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._attempts = _children(
            Counter(
                "oauthvault_litellm_requests",
                "Attempts to send a request on, by what pays: token, api_key (code: why no "
                "token), refused (code: why), other_provider.",
                ("paid_by", "code"),
                registry=registry,
            )
        )
        self._served = _children(
            Counter(
                "oauthvault_litellm_tokens_served",
                "Tokens given for a request: from memory, asked of the vault, or stale (from "
                "memory while the vault is out of reach).",
                ("source",),
                registry=registry,
            )
        )
        self._questions = _children(
            Histogram(
                "oauthvault_litellm_vault_question_seconds",
                "Questions to the vault by outcome: ok, not_modified, the code of a refusal, "
                "unreachable, not_asked (circuit open).",
                ("outcome",),
                buckets=_SECONDS,
                registry=registry,
            )
        )
        self._circuit = Gauge(
            "oauthvault_litellm_vault_circuit_open",
            "Processes of the proxy that hold the vault to be out of reach.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._circuit.set(0)
        self._rejections = _children(
            Counter(
                "oauthvault_litellm_upstream_401",
                "Tokens that upstream answered with 401 and that were reported to the vault, by "
                "outcome: replaced, or the code of the vault's refusal.",
                ("outcome",),
                registry=registry,
            )
        )

    def attempt(self, paid_by: PaidBy, code: str = "") -> None:
        self._attempts(paid_by, code).inc()

    def served(self, source: Source) -> None:
        self._served(source).inc()

    def asked(self, outcome: str, seconds: float) -> None:
        self._questions(outcome).observe(seconds)

    def circuit(self, is_open: bool) -> None:
        self._circuit.set(int(is_open))

    def refused_upstream(self, outcome: str) -> None:
        self._rejections(outcome).inc()


def proxy_metrics() -> Metrics:
    """In the registry that LiteLLM's own callback `prometheus` shows under /metrics.

    Once in a process: a registry refuses a name that it has.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        return NoMetrics()
    return PrometheusMetrics(REGISTRY)


def _children(metric: Any) -> Callable[..., Any]:
    """The child of each set of labels, found without prometheus_client's lock."""
    known: dict[tuple[str, ...], Any] = {}

    def child(*labels: str) -> Any:
        found = known.get(labels)
        if found is None:
            found = known[labels] = metric.labels(*labels)
        return found

    return child
