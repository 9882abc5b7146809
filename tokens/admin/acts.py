"""What an operator does to rows: always asked first, each with a permission of its own.

A page names who is concerned and what will happen to each; only its own POST acts. What
is done is a domain function, which records the operator in the audit trail. A few rows are done
in the request itself, many become a job (`tokens.jobs`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from unfold.decorators import action
from unfold.enums import ActionVariant

from tokens import clock, jobs
from tokens.admin import second_factor
from tokens.admin.base import VaultModelAdmin, operator, registered
from tokens.errors import VaultError
from tokens.models import JobAct
from tokens.tasks import publish_job

_CONFIRMED, _NAMED, _ACROSS = "confirmed", "named", "select_across"
# Of each row that a page has shown: whose it was then.
_SHOWN_AS = "shown_as"
# In the address of a row's page: Unix seconds, when an act that goes on was asked for.
ASKED_AT = "asked"
_SAID_EACH = 10
# What is done to more credentials than so many is a job.
HERE = 10
# Rows that are shown of those that are too many for a request.
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one row. ``level`` as in django.contrib.messages."""

    text: str
    level: int = messages.SUCCESS


@dataclass(frozen=True, kw_only=True)
class Act:
    """One thing an operator may do to rows of one model.

    ``refusal`` says why it cannot be done to a row (None: it can), ``effect`` what it
    will do, both in words, before anything is done. ``perform`` does it to all that were
    not refused, one result each, and is given what ``form`` asked beside. ``many_need_proof``:
    whoever does it to rows of a list is asked who they are again.

    ``goes_on``: its end comes behind the request, and the row's page is told when it was asked for.
    ``further``: it is seldom wanted, and its button has no room in a page's head.
    ``most``: how many are done in the request itself. More are left to a ``job``, or refused
    where there is none. ``deliver``: the answer is a file, of however many rows.
    """

    name: str
    permission: str
    title: str | Promise
    button: Callable[[int], str]
    question: Callable[[int], str]
    means: str | Promise
    effect: Callable[[Any, float], str]
    refusal: Callable[[Any, float], str | None]
    perform: Callable[..., list[Result]]
    icon: str
    dangerous: bool = False
    many_need_proof: bool = False
    goes_on: bool = False
    further: bool = False
    most: int = 100
    job: JobAct | None = None
    form: type[forms.Form] | None = None
    deliver: Callable[..., HttpResponseBase] | None = None

    @property
    def takes_many(self) -> bool:
        """Whether it can be done to more rows than one request does."""
        return self.job is not None or self.deliver is not None


def one_by_one(do: Callable[..., Result]) -> Callable[..., list[Result]]:
    """A refusal of the domain function becomes the row's result, and the others go on."""

    def perform(rows: Sequence[Any], actor: str, now: float, **asked: Any) -> list[Result]:
        results = []
        for row in rows:
            try:
                results.append(do(row, actor, now, **asked))
            except VaultError as refusal:
                results.append(
                    Result(text=f"{row.told_as}: {refusal.detail}", level=messages.ERROR)
                )
        return results

    return perform


@dataclass(kw_only=True)
class _Asked:
    """What a confirmation page is about. ``number``: how many rows, of which ``rows`` are shown.
    ``behind``: there are too many for a request. ``across``: all that a filter has found, and
    else those that were ``chosen`` on a list, or the one that is ``original``."""

    rows: Sequence[Any]
    number: int
    back: str
    original: Any = None
    behind: bool = False
    across: bool = False
    chosen: Sequence[str] = ()
    form: forms.Form | None = None
    proof: second_factor.ProofForm | None = None


def pages(act: Act) -> tuple[Any, Any]:
    """The button on one object's page, and the entry in a list's menu of actions."""

    def one(self: "ActingModelAdmin", request: HttpRequest, object_id: str) -> HttpResponseBase:
        return self.act_on_one(request, object_id, act)

    def many(
        self: "ActingModelAdmin", request: HttpRequest, queryset: QuerySet[Any]
    ) -> HttpResponseBase | None:
        return self.act_on_many(request, queryset, act)

    one.__name__, many.__name__ = f"{act.name}_one", f"{act.name}_many"
    variant = ActionVariant.DANGER if act.dangerous else ActionVariant.DEFAULT
    return (
        action(
            one,
            description=act.title,
            permissions=[act.permission],
            url_path=act.name,
            icon=act.icon,
            variant=variant,
        ),
        action(
            many,
            description=act.title,
            permissions=[act.permission],
        ),
    )


class ActingModelAdmin(VaultModelAdmin):
    """A model with acts. Subclasses say how a row is told (`tell`), and put in the acts."""

    def tell(self, row: Any, *, now: float) -> Any:
        """The row, with ``told_as`` (its name in a sentence) and ``told_state`` (a badge)."""
        raise NotImplementedError

    acts: ClassVar[Sequence[Act]] = ()

    def leave_out_impossible(self, context: dict[str, Any], row: Any, *, now: float) -> None:
        """No button for what would be refused."""
        refused = {f"/{act.name}/" for act in self.acts if act.refusal(row, now) is not None}
        context["actions_detail"] = [
            button
            for button in context.get("actions_detail", ())
            if not str(button["path"]).endswith(tuple(refused))
        ]

    def set_further_apart(self, context: dict[str, Any]) -> None:
        """The buttons of acts that are seldom wanted, for the page to put below its head."""
        further = tuple(f"/{act.name}/" for act in self.acts if act.further)
        buttons = context.get("actions_detail", ())
        context["further_acts"] = [b for b in buttons if str(b["path"]).endswith(further)]
        context["actions_detail"] = [b for b in buttons if b not in context["further_acts"]]

    def act_on_one(self, request: HttpRequest, object_id: str, act: Act) -> HttpResponseBase:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            missing: HttpResponse = self._get_obj_does_not_exist_redirect(
                request, self.opts, object_id
            )
            return missing
        back = reverse(f"{self.admin_site.name}:{registered(self.model)}_change", args=[row.pk])
        asked = _Asked(rows=[row], number=1, back=back, original=row)
        form = self._confirmed_form(request, act, asked)
        if form is None:
            return self._ask(request, act, asked)
        now = clock.now()
        done = self._do(request, [row], act, form)
        awaited = act.goes_on and done > 0
        return HttpResponseRedirect(f"{back}?{ASKED_AT}={now:.3f}" if awaited else back)

    def act_on_many(
        self, request: HttpRequest, queryset: QuerySet[Any], act: Act
    ) -> HttpResponseBase | None:
        rows = list(queryset[: act.most + 1])
        behind, number = len(rows) > act.most, len(rows)
        if behind and act.takes_many:
            number = self._number_of(queryset, act)
        most = jobs.MOST if act.job is not None else act.most
        if number > most and act.deliver is None:
            self.message_user(
                request,
                _("At most %(most)d at once. Nothing was done; select fewer.") % {"most": most},
                messages.ERROR,
            )
            return None
        across = request.POST.get(_ACROSS) == "1"
        asked = _Asked(
            rows=rows[:_SHOWN] if behind else rows,
            number=number,
            back=request.get_full_path(),
            behind=behind,
            across=across,
            chosen=[] if across else [str(pk) for pk in request.POST.getlist(ACTION_CHECKBOX_NAME)],
        )
        form = self._confirmed_form(request, act, asked)
        if form is None:
            return self._ask(request, act, asked)
        if act.deliver is not None:
            return act.deliver(queryset, operator(request), clock.now(), **form.cleaned_data)
        if behind and act.job is not None:
            return self._ask_for_jobs(request, queryset, act, act.job, most=number)
        self._do(request, rows, act, form)
        return HttpResponseRedirect(asked.back)

    def _confirmed_form(self, request: HttpRequest, act: Act, asked: "_Asked") -> forms.Form | None:
        """The form of a confirmation page that was sent, with all that the act asks; None: it is
        to be asked (again). The one place where the word for an act is taken.

        Of rows that a filter has found, as many as the page has named may be done and no more:
        others may match it by now.
        """
        asked.form = form = (act.form or forms.Form)()
        asks_who = act.many_need_proof and asked.original is None
        if asks_who:
            asked.proof = second_factor.proof(request, sent=False)
        if request.method != "POST" or _CONFIRMED not in request.POST:
            return None
        asked.form = form = (act.form or forms.Form)(request.POST)
        named = request.POST.get(_NAMED, "")[:9]
        if asked.across and asked.number > (int(named) if named.isdecimal() else 0):
            if named:
                self.message_user(
                    request,
                    _("More match by now than the page had named. Nothing was done yet."),
                    messages.WARNING,
                )
            return None
        shown_as = request.POST.getlist(_SHOWN_AS)
        if shown_as and not asked.behind and not set(map(_whose, asked.rows)) <= set(shown_as):
            self.message_user(
                request,
                _("It is another user's by now than the page had shown. Nothing was done yet."),
                messages.WARNING,
            )
            return None
        if not form.is_valid():
            return None
        if asks_who:
            # Last: a code is spent by being looked at.
            asked.proof = second_factor.proof(request, sent=True)
            if not asked.proof.is_valid():
                return None
        return form

    def _number_of(self, queryset: QuerySet[Any], act: Act) -> int:
        """How many there are; of what would be refused anyway, no more than that."""
        rows = queryset.order_by()
        return rows.count() if act.deliver is not None else rows[: jobs.MOST + 1].count()

    def _ask(self, request: HttpRequest, act: Act, asked: "_Asked") -> HttpResponse:
        now = clock.now()
        lines = []
        for row in asked.rows:
            self.tell(row, now=now)
            refusal = act.refusal(row, now)
            lines.append(
                {
                    "row": row,
                    "possible": refusal is None,
                    "effect": act.effect(row, now) if refusal is None else refusal,
                }
            )
        # Of many, whom it can be done to is seen when their turn comes.
        possible = asked.number if asked.behind else sum(bool(line["possible"]) for line in lines)
        context = {
            **self.admin_site.each_context(request),
            "title": act.title,
            "subtitle": None,
            "opts": self.opts,
            "original": asked.original,
            "act": act,
            "asked": asked,
            "question": act.question(possible) if possible else _("There is nothing to do."),
            "button": act.button(possible),
            "lines": lines,
            "possible": possible,
            "left_out": 0 if asked.behind else len(lines) - possible,
            "more": asked.number - len(lines),
            "back": asked.back,
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "chosen": asked.chosen or [row.pk for row in asked.rows[:1]],
            "action_name": request.POST.get("action") if asked.original is None else None,
            "confirmed_name": _CONFIRMED,
            "named_name": _NAMED,
            "across_name": _ACROSS,
            "shown_as_name": _SHOWN_AS,
            "shown_as": [] if asked.behind else [_whose(row) for row in asked.rows],
            "offers_all": act.takes_many and asked.original is None and not asked.across,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/confirm_act.html", context)

    def _do(self, request: HttpRequest, rows: Sequence[Any], act: Act, form: forms.Form) -> int:
        """To how many it was done, or tried; the others were refused."""
        now = clock.now()
        doable, results = [], []
        for row in rows:
            self.tell(row, now=now)
            refusal = act.refusal(row, now)
            if refusal is None:
                doable.append(row)
            else:
                results.append(Result(text=f"{row.told_as}: {refusal}", level=messages.WARNING))
        if doable:
            results += act.perform(doable, operator(request), now, **form.cleaned_data)
        self._report(request, act, results)
        return len(doable)

    def _ask_for_jobs(
        self, request: HttpRequest, queryset: QuerySet[Any], act: Act, job: JobAct, *, most: int
    ) -> HttpResponse:
        """A job for each tenant concerned; its page, or the list where there are several."""
        now = clock.now()
        try:
            made = jobs.ask(
                act=job, credentials=queryset, actor=operator(request),
                operator=cast(User, request.user), most=most, now=now,
            )  # fmt: skip
        except jobs.TooMany as refusal:
            self.message_user(request, refusal.detail, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        told = [publish_job(tenant_id=each.tenant_id, job_id=each.pk, now=now) for each in made]
        if not all(told):
            self.message_user(
                request,
                _("The message broker cannot be reached. It begins when the scheduler and a "
                  "worker are there again."),
                messages.WARNING,
            )  # fmt: skip
        if len(made) == 1:
            return HttpResponseRedirect(reverse("admin:tokens_job_change", args=[made[0].pk]))
        self.message_user(
            request,
            ngettext(
                "%(n)d job was asked for.", "%(n)d jobs were asked for, one for each tenant.",
                len(made),
            )
            % {"n": len(made)},
            messages.SUCCESS,
        )  # fmt: skip
        return HttpResponseRedirect(reverse("admin:tokens_job_changelist"))

    def _report(self, request: HttpRequest, act: Act, results: Sequence[Result]) -> None:
        """A sentence each for a few; for many a sum, and a sentence for what went wrong."""
        if len(results) > _SAID_EACH:
            went_well = sum(result.level == messages.SUCCESS for result in results)
            self.message_user(
                request,
                _("%(act)s: done for %(done)d of %(all)d.")
                % {"act": act.title, "done": went_well, "all": len(results)},
                messages.SUCCESS if went_well == len(results) else messages.WARNING,
            )
            results = [result for result in results if result.level >= messages.WARNING]
        for result in results[:_SAID_EACH]:
            self.message_user(request, result.text, result.level)
        if len(results) > _SAID_EACH:
            more = len(results) - _SAID_EACH
            self.message_user(
                request,
                ngettext("… and %(more)d more like these.", "… and %(more)d more like these.", more)
                % {"more": more},
                messages.WARNING,
            )


def _whose(row: Any) -> str:
    """The row, and the user it belongs to: somebody may be given it while a page is open."""
    user_id = str(getattr(row, "user_id", ""))
    return f"{row.pk}-{hashlib.sha256(user_id.encode()).hexdigest()[:16]}"
