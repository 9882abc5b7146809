from typing import Any

from django.core.management.commands.flush import Command as Flush
from django.db import connections

from tests.emptying import triggers


class Command(Flush):
    def handle(self, **options: Any) -> None:
        with triggers.switched_off(connections[options["database"]]):
            super().handle(**options)
