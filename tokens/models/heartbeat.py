"""Signs of life of the parts that have no address."""

from django.db import models


class Heartbeat(models.Model):
    """When a part last did its work, in Unix seconds."""

    part = models.CharField(max_length=32, primary_key=True)
    at = models.FloatField()

    def __str__(self) -> str:
        return self.part

    @classmethod
    def take_turn(cls, part: str, *, every: float, now: float) -> bool:
        """Whether the caller is the one to do this part's work now: nobody has within ``every``
        seconds. One UPDATE decides between those who come at once.

        A turn that was taken in what is the future still (a clock that was ahead for a while)
        keeps nobody waiting until then.
        """
        cls.objects.get_or_create(part=part, defaults={"at": 0.0})
        due = models.Q(at__lte=now - every) | models.Q(at__gt=now + every)
        return bool(cls.objects.filter(due, part=part).update(at=now))
