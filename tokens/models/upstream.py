"""What every worker must know about the authorization server."""

from django.db import models


class Upstream(models.Model):
    """One row per token endpoint. While ``closed_until`` (Unix seconds) lies ahead, no
    refresh of any credential is sent there: the server said 429 and named a time."""

    token_url = models.CharField(max_length=500, unique=True)
    closed_until = models.FloatField(default=0)

    def __str__(self) -> str:
        return self.token_url
