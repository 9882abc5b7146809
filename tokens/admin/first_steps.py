"""What a vault that nobody uses yet needs, in order: a tenant, a login, a key.

Each part of the house knows its own: what is not of this package is added by `add`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from tokens.admin.facts import with_commands
from tokens.models import OAuthCredential, Tenant


@dataclass(frozen=True, kw_only=True)
class Step:
    """``link``: the page where it is done, with its ``link_text``; empty: not on these pages, or
    not by this operator. ``command``: how it is done in a terminal."""

    title: str
    is_done: bool
    why: str | SafeString = ""
    link: str = ""
    link_text: str = ""
    command: str = ""


Ask = Callable[[HttpRequest], Step | None]


def add(ask: Ask) -> Ask:
    """``ask`` gives a step, or None where it is no matter of this operator's."""
    if ask not in _STEPS:
        _STEPS.append(ask)
    return ask


def left(request: HttpRequest) -> list[Step]:
    """All of them while one is not done yet; none after that."""
    steps = [step for ask in _STEPS if (step := ask(request)) is not None]
    return [] if all(step.is_done for step in steps) else steps


def _tenant(request: HttpRequest) -> Step | None:
    if not request.user.has_perm("tokens.view_tenant"):
        return None
    may = request.user.has_perm("tokens.add_tenant")
    return Step(
        title=_("A tenant: the team whose logins are kept together"),
        is_done=Tenant.objects.exists(),
        why=_("Each has its own people, keys and settings, and sees nothing of another."),
        link=reverse("admin:tokens_tenant_add") if may else "",
        link_text=_("Make a tenant"),
        command="oauthvault create_tenant my-team",
    )


def _credential(request: HttpRequest) -> Step | None:
    if not request.user.has_perm("tokens.view_oauthcredential"):
        return None
    may = request.user.has_perm("tokens.import_oauthcredential")
    return Step(
        title=_("A login: one person's Claude credentials"),
        is_done=OAuthCredential.objects.exists(),
        why=with_commands(
            _(
                "On the machine where the person has signed in to Claude Code, or with their file "
                "at hand. The tenant `default` needs no `--user`. A login that is kept here should "
                "not go on being used by Claude Code elsewhere: a refresh token is single use, and "
                "one of the two would be signed out."
            )
        ),
        link=reverse("admin:tokens_oauthcredential_import_page") if may else "",
        link_text=_("Upload or paste it"),
        command=(
            "oauthvault import_credentials ~/.claude/.credentials.json --tenant my-team --user jane"
        ),
    )


_STEPS: list[Ask] = [_tenant, _credential]
