"""python -m demo.prepare FOLDER: an empty vault becomes one with two tenants.

The same as `oauthvault init`, and then create_tenant and create_key for each, in one process.
The service keys are left in FOLDER, which only we can read: each is shown once, and is for one
team's LiteLLM.
"""

import io
import json
import os
import sys
from pathlib import Path

import django
from django.core.management import call_command

from demo.cast import ALICE, TENANTS, THRESHOLD
from oauthvault.datadir import write_once


def main(folder: Path) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")
    django.setup()
    call_command("init", quiet=True)
    for tenant in TENANTS:
        call_command("create_tenant", tenant)
        printed = io.StringIO()
        call_command("create_key", tenant, "--label", "its LiteLLM", "--json", stdout=printed)
        write_once(folder / f"{tenant}.key", json.loads(printed.getvalue())["key"])
    call_command("change_tenant", ALICE.tenant, "--refresh-threshold", str(THRESHOLD))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
