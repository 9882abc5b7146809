"""What every worker must know about the authorization server."""

from django.db import models


class Upstream(models.Model):
    """One row per token endpoint. Times are Unix seconds; 0 means never.

    ``rate_limited_until``: the server said 429 and named a time; until then no refresh of
    any credential is sent there. ``circuit_open_until``: too many refreshes in a row found
    the server down; 0 while the circuit is closed, and once the time is past, one refresh
    at a time may try whether it still is (`tokens.refresh.gate`).
    """

    token_url = models.CharField(max_length=500, unique=True)
    rate_limited_until = models.FloatField(default=0)
    circuit_open_until = models.FloatField(default=0)
    consecutive_failures = models.PositiveIntegerField(default=0)
    # Whose refreshes failed since the last answer: a credential's id, or "tenant 7" for all
    # that it has and that were never refreshed here. One or two that the server chokes on
    # are not a server that is down: each is counted once.
    failed_credentials = models.JSONField(default=list)

    def __str__(self) -> str:
        return self.token_url
