"""Signs of life of the parts that have no address."""

from django.db import models


class Heartbeat(models.Model):
    """When a part last did its work, in Unix seconds."""

    part = models.CharField(max_length=32, primary_key=True)
    at = models.FloatField()

    def __str__(self) -> str:
        return self.part
