from tokens import vault
from tokens.management.suspension import SuspensionCommand
from tokens.tenants import resume_tenant


class Command(SuspensionCommand):
    help = "End a suspension made with `oauthvault suspend`."
    of_user = staticmethod(vault.resume)
    of_tenant = staticmethod(resume_tenant)
    done = "resumed"
