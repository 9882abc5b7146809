import logging
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from tokens import clock, vault
from tokens.errors import VaultError
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    add_tenant,
    add_user,
    progress,
    tenant_named,
)
from tokens.management.far_side import refuse_another_server
from tokens.models import OAuthCredential, Standing

# A success of a moment ago answered.
_FRESH = "fresh"
_NO_FAILURE = {"refreshed", _FRESH, "left_out"}


class Command(VaultCommand):
    help = (
        "Refresh credentials now: one user's, a tenant's, or all that are due. Asks the "
        "authorization server through the same single refresh as everything else. A success of "
        "the last ten seconds answers too, and nothing is sent: that is said, and is the result "
        "`fresh` in --json (else: `refreshed`, or why not). Of a tenant's, those that are revoked "
        "or suspended are left out (`left_out`), and are no failure."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser, required=False)
        add_user(parser, required=False)
        parser.add_argument("--all-due", action="store_true", help="everything that is due")
        add_json(parser)

    def run(self, **options: Any) -> None:
        if not options["all_due"] and not options["tenant"]:
            raise CommandError("name --tenant (and --user), or say --all-due", returncode=2)
        if options["user"] and not options["tenant"]:
            raise CommandError("--user needs --tenant", returncode=2)
        refuse_another_server()
        chosen = OAuthCredential.objects.select_related("tenant").order_by("tenant", "user_id")
        if options["tenant"]:
            chosen = chosen.for_tenant(tenant_named(options["tenant"]))
        if options["user"]:
            chosen = chosen.filter(user_id=options["user"])
        if options["all_due"]:
            chosen = chosen.filter(pk__in=OAuthCredential.objects.due(now=clock.now()))
        if sys.stderr.isatty():
            # That somebody must sign in again is the result below: it need not be there twice.
            logging.getLogger("tokens.refresh.refusal").setLevel(logging.ERROR)
        results: list[dict[str, Any]] = []
        everything = list(chosen)
        named = options["user"] is not None
        step = progress(len(everything), wanted=not options["json"] and not sys.stdout.isatty())
        for credential in everything:
            why = None if named else _why_left_out(credential)
            result = _result(credential, "left_out", why) if why else _refresh(credential)
            results.append(result)
            step()
            if not options["json"] and why is None:
                line = f"{result['tenant']}/{result['user_id']}: "
                if result["result"] == _FRESH:
                    self.say(line + result["detail"])
                elif result["detail"]:
                    self.say(f"{line}{result['result']}. {result['detail']}")
                else:
                    self.say(line + result["result"])
        if options["json"]:
            self.print_json(results)
        if options["user"] and not results:
            raise CommandError(f"No OAuth token found for user {options['user']}")
        left_out = [result["detail"] for result in results if result["result"] == "left_out"]
        tried = len(results) - len(left_out)
        if not options["json"]:
            if not tried:
                self.say("Nothing to refresh.")
            if left_out:
                counts = (f"{left_out.count(why)} {why}" for why in sorted(set(left_out)))
                self.say(f"Left out: {', '.join(counts)}.")
        failed = sum(result["result"] not in _NO_FAILURE for result in results)
        if failed:
            raise CommandError(f"{failed} of {tried} could not be refreshed")


def _why_left_out(credential: OAuthCredential) -> str | None:
    """What somebody took out of use on purpose is not what a whole tenant's refresh is for."""
    if credential.standing == Standing.REVOKED:
        return "revoked"
    return "suspended" if credential.suspended_at is not None else None


def _refresh(credential: OAuthCredential) -> dict[str, Any]:
    began = clock.now()
    try:
        after = vault.refresh_now(
            tenant=credential.tenant, user_id=credential.user_id, actor=actor(), now=began
        )
    except VaultError as refusal:
        return _result(credential, refusal.code, refusal.detail)
    last = after.last_refreshed_at
    if last is not None and (after.generation == credential.generation or last < int(began)):
        ago = max(0, int(began) - last)
        result = _result(credential, _FRESH, f"was refreshed {ago} s ago; nothing was sent")
    else:
        result = _result(credential, "refreshed")
    return result | {"expires_at": after.expires_at}


def _result(credential: OAuthCredential, word: str, detail: str = "") -> dict[str, Any]:
    return {
        "tenant": credential.tenant.slug,
        "user_id": credential.user_id,
        "result": word,
        "detail": detail,
    }
