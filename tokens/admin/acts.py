"""What an operator does to rows: always asked first, each with a permission of its own.

A page names who is concerned and what will happen to each; only its own POST acts. What
is done is a domain function, which records the operator in the audit trail.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from unfold.decorators import action
from unfold.enums import ActionVariant

from tokens import clock
from tokens.admin import second_factor
from tokens.admin.base import VaultModelAdmin, operator, registered
from tokens.errors import VaultError

_CONFIRMED = "confirmed"
_SAID_EACH = 10


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
    not refused, one result each. ``many_need_proof``: whoever does it to many is asked for their
    second factor again.
    """

    name: str
    permission: str
    title: str | Promise
    button: Callable[[int], str]
    question: Callable[[int], str]
    means: str | Promise
    effect: Callable[[Any, float], str]
    refusal: Callable[[Any, float], str | None]
    perform: Callable[[Sequence[Any], str, float], list[Result]]
    icon: str
    dangerous: bool = False
    many_need_proof: bool = False
    most: int = 100


def one_by_one(
    do: Callable[[Any, str, float], Result],
) -> Callable[[Sequence[Any], str, float], list[Result]]:
    """A refusal of the domain function becomes the row's result, and the others go on."""

    def perform(rows: Sequence[Any], actor: str, now: float) -> list[Result]:
        results = []
        for row in rows:
            try:
                results.append(do(row, actor, now))
            except VaultError as refusal:
                results.append(
                    Result(text=f"{row.told_as}: {refusal.detail}", level=messages.ERROR)
                )
        return results

    return perform


def pages(act: Act) -> tuple[Any, Any]:
    """The button on one object's page, and the entry in a list's menu of actions."""

    def one(self: "ActingModelAdmin", request: HttpRequest, object_id: str) -> HttpResponse:
        return self.act_on_one(request, object_id, act)

    def many(
        self: "ActingModelAdmin", request: HttpRequest, queryset: QuerySet[Any]
    ) -> HttpResponse | None:
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

    def act_on_one(self, request: HttpRequest, object_id: str, act: Act) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        back = reverse(f"{self.admin_site.name}:{registered(self.model)}_change", args=[row.pk])
        if request.method != "POST" or _CONFIRMED not in request.POST:
            return self._ask(request, [row], act, back=back, original=row)
        self._do(request, [row], act)
        return HttpResponseRedirect(back)

    def act_on_many(
        self, request: HttpRequest, queryset: QuerySet[Any], act: Act
    ) -> HttpResponse | None:
        rows = list(queryset[: act.most + 1])
        if len(rows) > act.most:
            self.message_user(
                request,
                _("At most %(most)d at once. Nothing was done; select fewer.") % {"most": act.most},
                messages.ERROR,
            )
            return None
        back = request.get_full_path()
        confirmed = _CONFIRMED in request.POST
        proof = second_factor.proof(request, sent=confirmed) if act.many_need_proof else None
        if not confirmed or (proof is not None and not proof.is_valid()):
            return self._ask(request, rows, act, back=back, proof=proof)
        self._do(request, rows, act)
        return HttpResponseRedirect(back)

    def _ask(
        self,
        request: HttpRequest,
        rows: Sequence[Any],
        act: Act,
        *,
        back: str,
        original: Any = None,
        proof: second_factor.ProofForm | None = None,
    ) -> HttpResponse:
        now = clock.now()
        lines = []
        for row in rows:
            self.tell(row, now=now)
            refusal = act.refusal(row, now)
            lines.append(
                {
                    "row": row,
                    "possible": refusal is None,
                    "effect": act.effect(row, now) if refusal is None else refusal,
                }
            )
        possible = sum(bool(line["possible"]) for line in lines)
        context = {
            **self.admin_site.each_context(request),
            "title": act.title,
            "subtitle": None,
            "opts": self.opts,
            "original": original,
            "act": act,
            "question": act.question(possible) if possible else _("There is nothing to do."),
            "button": act.button(possible),
            "lines": lines,
            "possible": possible,
            "left_out": len(lines) - possible,
            "back": back,
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "action_name": request.POST.get("action") if original is None else None,
            "confirmed_name": _CONFIRMED,
            "proof": proof,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/confirm_act.html", context)

    def _do(self, request: HttpRequest, rows: Sequence[Any], act: Act) -> None:
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
            results += act.perform(doable, operator(request), now)
        self._report(request, act, results)

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
