from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, connections

from oauthvault.postgresql import roles
from tokens.management.command import VaultCommand


class Command(VaultCommand):
    help = (
        "Make the PostgreSQL role that DATABASE_URL names: one that may sign in, owns nothing, and "
        "for which row-level security holds. As the role in OAUTHVAULT_MIGRATION_DATABASE_URL, "
        "which must be allowed to create roles (for this command only) and owns the tables. "
        "Safe to run again: the role gets the password that DATABASE_URL has. `oauthvault init` "
        "then migrates and grants the rights."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        pass

    def run(self, **options: Any) -> None:
        if "owner" not in connections.databases:
            raise CommandError(
                "two roles need two addresses: DATABASE_URL for the one that serves, and "
                "OAUTHVAULT_MIGRATION_DATABASE_URL for the one that owns and migrates",
                returncode=2,
            )
        service, owner = connections["default"], connections["owner"]
        name, password = service.settings_dict["USER"], service.settings_dict["PASSWORD"]
        if not name or not password:
            raise CommandError("DATABASE_URL must name a user and a password", returncode=2)
        try:
            if name == roles.name_of(owner):
                raise CommandError("both addresses name the same role; give the service its own")
            made = roles.make_service_role(owner, name=name, password=password)
        except DatabaseError as error:
            raise CommandError(
                f"the role could not be made: {' '.join(str(error).split())}"
            ) from None
        self.say(f"Role {name}: {'made' if made else 'was there, and has the password now'}.")
        try:
            powerful = roles.passes_the_wall(service)
        except DatabaseError as error:
            raise CommandError(
                f"it cannot sign in with DATABASE_URL: {' '.join(str(error).split())}"
            ) from None
        if powerful:
            raise CommandError(
                f"{name} is superuser or bypasses row-level security, or may turn into a role that "
                f"does: ALTER ROLE {name} NOSUPERUSER NOBYPASSRLS, or choose another one"
            )
        self.say("Row-level security holds for it. Next: `oauthvault init`.")
