from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.db.models import Count, Max

from tokens import clock
from tokens.management.command import VaultCommand, add_json, confirm
from tokens.management.far_side import refuse_another_server
from tokens.models import OAuthCredential, Standing
from tokens.refresh import gate


class Command(VaultCommand):
    help = (
        "Forget that the authorization server asked everybody to wait (429), or was found down, "
        "so that refreshes are sent again. A login that failed is still tried when its own wait "
        "is over: some 6 minutes at most, unless the server named a longer one; `oauthvault "
        "refresh --tenant T --user U` does it now. The command is never needed: both end by "
        "themselves. Whoever asks before a 429 is over may earn a longer one."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--yes", action="store_true", help="do not ask before")
        add_json(parser)

    def run(self, **options: Any) -> None:
        refuse_another_server()
        now = clock.now()
        door = gate.look(now=now)
        closed = bool(door.closed_until) or door.found_down
        if closed:
            state = "found down" if door.found_down else "asked everybody to wait"
            left = max(0, round(door.closed_until - now))
            confirm(
                f"{settings.CLAUDE_OAUTH_TOKEN_URL} {state}; nothing is sent for {left} s. "
                "Send again at once?",
                yes=options["yes"],
                otherwise="nothing was changed",
            )
            gate.reopen()
        if options["json"]:
            self.print_json({"reset": closed})
        elif closed:
            self.say(f"Refreshes are sent again.{_of_those_that_failed(now=now)}")
        else:
            self.say("Nothing keeps refreshes from being sent.")


def _of_those_that_failed(*, now: float) -> str:
    """What opening the door changes nothing in: the back-off of each credential."""
    waiting = OAuthCredential.objects.filter(
        standing=Standing.ACTIVE,
        suspended_at=None,
        consecutive_failures__gt=0,
        refresh_due_at__gt=int(now),
    ).aggregate(logins=Count("pk"), last=Max("refresh_due_at"))
    if not waiting["logins"]:
        return ""
    left = round(waiting["last"] - now)
    if waiting["logins"] == 1:
        which = f"1 login that failed is tried again when its own wait is over, in {left} s"
    else:
        which = (
            f"{waiting['logins']} logins that failed are tried again when their own wait is over, "
            f"the last in {left} s"
        )
    return f" {which}; `oauthvault refresh --tenant T --user U` does it now."
