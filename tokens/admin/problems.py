"""What is wrong with the vault as a whole, in words: what it means, what to do, and where."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from oauthvault.env import ConfigurationError
from tokens import notices
from tokens.admin.facts import with_commands
from tokens.admin.times import exact, moment, span
from tokens.condition import Condition, TrailCondition
from tokens.keyring import load_keyring
from tokens.roles import ALL_TENANTS
from tokens.rotation.keks import to_rewrap
from tokens.statistics import Overview


@dataclass(frozen=True, kw_only=True)
class Problem:
    """``name``: of the entry on the page. ``tone``: bad or uneasy. ``since``: since when, or
    until when, as far as is known. ``link``: where to look, with its ``link_text``."""

    name: str
    tone: str
    what: str | SafeString
    to_do: SafeString
    since: SafeString | str = ""
    link: str = ""
    link_text: str = ""


def of_the_vault(
    request: HttpRequest, condition: Condition, overview: Overview, *, now: float
) -> Iterator[Problem]:
    """For who may see credentials; the worst first."""
    yield from _quarantine(condition)
    yield from _machinery(condition)
    yield from _far_side(condition)
    yield from _spool(condition)
    yield from _left_behind(overview, now=now)
    yield from _failing(overview)
    if request.user.has_perm("api.view_apikey"):
        yield from _unusual_keys(now=now)
    if request.user.has_perm(ALL_TENANTS):
        yield from _older_kek()


def of_the_trail(trail: TrailCondition, *, now: float) -> Iterator[Problem]:
    """For who may see the audit trail."""
    link = reverse("admin:tokens_auditevent_changelist")
    if trail.broken:
        yield Problem(
            name="broken-chains",
            tone="bad",
            what=ngettext(
                "%(n)d chain of the audit trail was not proven whole when it was verified last.",
                "%(n)d chains of the audit trail were not proven whole when they were verified "
                "last.",
                trail.broken,
            )
            % {"n": trail.broken},
            to_do=_say(
                _(
                    "Somebody may have changed what was written down: read what was found, and "
                    "verify again with `oauthvault verify_audit`."
                )
            ),
            since=moment(trail.verified_at, now=now),
            link=link,
            link_text=_("what was found"),
        )
    if trail.missing_triggers:
        yield Problem(
            name="unguarded",
            tone="bad",
            what=_(
                "The database does not refuse to change the audit trail any more: triggers are "
                "missing."
            ),
            to_do=_say(_("Make them anew: `oauthvault migrate`")),
            link=link,
            link_text=_("the trail"),
        )
    if trail.unsealed_since is not None:
        yield Problem(
            name="unsealed",
            tone="uneasy",
            what=_("Records of the audit trail have waited for too long to be sealed."),
            to_do=_say(
                _(
                    "Until then they could be deleted without a trace. The sweep seals them: see "
                    "that scheduler and worker run; if they do, their log says what fails."
                )
            ),
            since=_the_first(trail.unsealed_since, now=now),
            link=link,
            link_text=_("the trail"),
        )


def _quarantine(condition: Condition) -> Iterator[Problem]:
    deployment = condition.deployment
    if deployment.quarantined_at is None:
        return
    yield Problem(
        name="quarantine",
        tone="bad",
        what=_("This database seems to be a restored one: %(reason)s.")
        % {"reason": deployment.quarantine_reason or _("no reason was written down")},
        to_do=_say(
            _(
                "Its credentials are neither handed out nor refreshed. Make sure that nothing "
                "runs on the original database, revoke again whom you revoked since the backup, "
                "then run `oauthvault release_quarantine`."
            )
        ),
        since=moment(deployment.quarantined_at, now=condition.now),
        link=f"{_credentials()}?status=quarantined",
        link_text=_("who is set aside"),
    )


def _machinery(condition: Condition) -> Iterator[Problem]:
    """Worker and scheduler. Sweeps are done by a worker: without one, nothing is known of the
    scheduler."""
    workers = condition.workers
    if not workers.alive:
        yield Problem(
            name="no-worker",
            tone="bad" if settings.CLAUDE_OAUTH_AUTO_REFRESH else "uneasy",
            what=(
                _("No worker has been seen within the last hour.")
                if workers.last_seen is None
                else _("No worker is running: the last one was seen %(age)s ago.")
                % {"age": span(condition.now - workers.last_seen)}
            ),
            to_do=_say(
                _(
                    "Nothing is refreshed ahead, and what is asked for on these pages waits. "
                    "Start one: `oauthvault worker` (with everything else: `oauthvault up`)."
                )
            ),
            since=_at(workers.last_seen),
        )
    if not condition.scheduler_is_away:
        return
    ahead = settings.CLAUDE_OAUTH_AUTO_REFRESH
    if condition.last_sweep is None:
        what = (
            _("Nothing is refreshed ahead: the scheduler has never been seen.")
            if ahead
            else _("The scheduler has never been seen.")
        )
    else:
        age = {"age": span(condition.now - condition.last_sweep)}
        what = (
            _("Nothing is refreshed ahead: the scheduler was last seen %(age)s ago.")
            if ahead
            else _("The scheduler was last seen %(age)s ago.")
        ) % age
    yield Problem(
        name="no-scheduler",
        tone="bad" if ahead else "uneasy",
        what=what,
        to_do=_say(
            _("Start it: `oauthvault beat` (with everything else: `oauthvault up`).")
            if workers.alive
            else _(
                "It is known by the sweeps that a worker does: start a worker first, and if this "
                "stays, the scheduler with `oauthvault beat`."
            )
        ),
        since=_at(condition.last_sweep),
    )


def _far_side(condition: Condition) -> Iterator[Problem]:
    door = condition.door
    until = moment(door.closed_until, now=condition.now) if door.closed_until else _("now")
    if door.found_down:
        yield Problem(
            name="upstream",
            tone="uneasy",
            what=_("The authorization server was found down; one refresh tries again for all:"),
            since=until,
            to_do=_say(
                _(
                    "Tokens that live still are handed out. There is nothing to do but to wait; "
                    "sure that it is back, and in a hurry: `oauthvault reset_upstream`."
                )
            ),
        )
    elif door.closed_until:
        yield Problem(
            name="upstream",
            tone="uneasy",
            what=_(
                "The authorization server has asked everybody to wait; no refresh is sent before:"
            ),
            since=until,
            to_do=_say(_("There is nothing to do: refreshes go on by themselves then.")),
        )


def _spool(condition: Condition) -> Iterator[Problem]:
    spooled = condition.spooled
    if not spooled.count:
        return
    yield Problem(
        name="spooled",
        tone="uneasy",
        what=ngettext(
            "%(n)d answer of the authorization server waits to be saved.",
            "%(n)d answers of the authorization server wait to be saved.",
            spooled.count,
        )
        % {"n": spooled.count},
        to_do=_say(
            _(
                "They come home by themselves with the next sweep that the database lets save "
                "them. Leave the data directory, and Redis, as they are until then."
            )
        ),
        since=_the_first(spooled.since, now=condition.now),
    )


def _left_behind(overview: Overview, *, now: float) -> Iterator[Problem]:
    if not overview.overdue:
        return
    yield Problem(
        name="overdue",
        tone="uneasy",
        what=ngettext(
            "The refresh of %(n)d credential is overdue.",
            "The refreshes of %(n)d credentials are overdue.",
            overview.overdue,
        )
        % {"n": overview.overdue},
        to_do=_say(
            _(
                "A request that needs one of them refreshes it. If they do not become fewer while "
                "scheduler and worker run, the page of one says what keeps it from being "
                "refreshed."
            )
        ),
        since=_the_first(overview.overdue_since, now=now),
        link=f"{_credentials()}?status=overdue",
        link_text=_("who that is"),
    )


def _failing(overview: Overview) -> Iterator[Problem]:
    failing = overview.chosen["failing"]
    if not failing:
        return
    yield Problem(
        name="failing",
        tone="uneasy",
        what=ngettext(
            "%(n)d person works still, and the last refresh failed.",
            "%(n)d people work still, and their last refresh failed.",
            failing,
        )
        % {"n": failing},
        to_do=_say(
            _(
                "It is tried again by itself. If it goes on failing they stop when their access "
                "tokens end; the page of each says why."
            )
        ),
        link=f"{_credentials()}?status=failing",
        link_text=_("who that is"),
    )


def _unusual_keys(*, now: float) -> Iterator[Problem]:
    keys = notices.noticed(now=now).order_by().values("tenant_id", "actor").distinct().count()
    if not keys:
        return
    yield Problem(
        name="unusual-keys",
        tone="uneasy",
        what=ngettext(
            "%(n)d service key was handed the tokens of unusually many users within the last day.",
            "%(n)d service keys were handed the tokens of unusually many users within the last "
            "day.",
            keys,
        )
        % {"n": keys},
        to_do=_say(
            _("It may have been stolen. If nobody knows why, rotate it: `oauthvault rotate_key`.")
        ),
        link=reverse("admin:api_apikey_changelist"),
        link_text=_("the keys"),
    )


def _older_kek() -> Iterator[Problem]:
    """Without a key at hand this page is not the one to say so: nothing works then, and health
    says why."""
    try:
        waiting = to_rewrap(load_keyring())
    except ConfigurationError:
        return
    if not waiting:
        return
    yield Problem(
        name="older-kek",
        tone="uneasy",
        what=ngettext(
            "%(n)d key is still wrapped by an older encryption key.",
            "%(n)d keys are still wrapped by an older encryption key.",
            waiting,
        )
        % {"n": waiting},
        to_do=_say(_("Do not remove the older one before `oauthvault rotate_keys` has been run.")),
    )


def _at(time: float | None) -> str:
    """Where the sentence has said how long ago."""
    return "" if time is None else exact(time)


def _the_first(at: float | None, *, now: float) -> SafeString | str:
    """When the first of several things happened; nothing where that is not known."""
    return "" if at is None else format_html("{} {}", _("the first"), moment(at, now=now))


def _say(sentence: str) -> SafeString:
    return format_html("{}", with_commands(sentence))


def _credentials() -> str:
    return reverse("admin:tokens_oauthcredential_changelist")
