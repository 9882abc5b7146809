from tokens import vault
from tokens.management.suspension import SuspensionCommand
from tokens.tenants import suspend_tenant


class Command(SuspensionCommand):
    help = (
        "Stop handing out and refreshing a user's credential, or everything of a tenant. "
        "Nothing is lost by it."
    )
    of_user = staticmethod(vault.suspend)
    of_tenant = staticmethod(suspend_tenant)
    done = "suspended"
