"""Which tenants an operator of the dashboard looks after."""

from typing import ClassVar

from django.conf import settings
from django.db import models

from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant


class Assignment(OfTenant):
    """This operator looks after this tenant, and of other tenants sees nothing (`tokens.roles`).

    What they may do there is said by their permissions, as everywhere in Django.
    """

    operator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="assignments"
    )
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")

    objects = ScopedManager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["operator", "tenant"], name="one_assignment_per_tenant")
        ]

    def __str__(self) -> str:
        return f"{self.operator} looks after {self.tenant}"
