"""What `oauthvault suspend` and `oauthvault resume` share: one user, or a whole tenant."""

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any, ClassVar

from tokens import clock
from tokens.errors import NoToken
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    add_tenant,
    add_user,
    tenant_named,
)


class SuspensionCommand(VaultCommand):
    """Subclasses name the two acts, and the word for what has then happened."""

    of_user: ClassVar[Callable[..., Any]]
    of_tenant: ClassVar[Callable[..., Any]]
    done: ClassVar[str]

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser)
        add_user(parser, required=False)
        add_json(parser)

    def run(self, **options: Any) -> None:
        tenant, now = tenant_named(options["tenant"]), clock.now()
        if options["user"]:
            whom = {"tenant": tenant, "user_id": options["user"]}
            try:
                type(self).of_user(**whom, actor=actor(), now=now)
            except NoToken as refusal:
                raise NoToken(
                    f"{refusal.detail} for user {options['user']} of {tenant.slug}"
                ) from None
        else:
            type(self).of_tenant(tenant=tenant, actor=actor(), now=now)
        if options["json"]:
            self.print_json(
                {"tenant": tenant.slug, "user_id": options["user"], "result": self.done}
            )
        elif options["user"]:
            self.say(f"User {options['user']} of tenant {tenant.slug} is {self.done}.")
        else:
            self.say(f"Tenant {tenant.slug} is {self.done}.")
