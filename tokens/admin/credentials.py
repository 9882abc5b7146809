"""The credentials: who has one, whether it works, what to do if not. Never a token."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import action
from unfold.views import ChangeList

from tokens import clock, own_settings
from tokens.admin import facts
from tokens.admin.acts import ASKED_AT, ActingModelAdmin, pages
from tokens.admin.auto_refresh import RESUME_AUTO_REFRESH, SUSPEND_AUTO_REFRESH
from tokens.admin.bars import LIVE
from tokens.admin.credential_acts import REFRESH, RESUME, REVOKE, ROTATE, SUSPEND
from tokens.admin.credential_filters import (
    ExpiryFilter,
    FailingFilter,
    LoginFilter,
    StatusFilter,
    UnusedFilter,
    shortcuts,
)
from tokens.admin.export import EXPORT
from tokens.admin.importing import import_page
from tokens.admin.reassignment import REASSIGN
from tokens.admin.resealing import RESEAL
from tokens.admin.timeline import END_OF_TIME, busy_minutes, timeline_of
from tokens.admin.times import moment
from tokens.listing import named
from tokens.models import (
    AuditEvent,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Standing,
    Status,
)

_FROM_A_COMMAND_ON = re.compile(r":\s*`.*", re.DOTALL)
# Seconds in which a page waits for a refresh that a worker was told of.
_EXPECTED_WITHIN, _CLOCKS_DIFFER = 60.0, 1.0


class CredentialList(ChangeList):
    """A page of rows, each with its facts as of one reading of the clock."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        now = clock.now()
        self.result_list = [facts.attach(row, now=now) for row in self.result_list]


_name = facts.name


def _account(credential: OAuthCredential) -> str:
    """Its address, and that nobody but a file has named it, where that is so."""
    if credential.account_is_confirmed:
        return credential.account_email
    return _("%(address)s, as imported") % {"address": credential.account_email}


def _time_in(request: HttpRequest, name: str) -> float | None:
    """What the address says by that name, if it is a time."""
    try:
        at = float(request.GET.get(name, ""))
    except ValueError:
        return None
    return at if 0 < at <= END_OF_TIME else None


def _is_under_way(credential: OAuthCredential, asked: float | None, *, now: float) -> bool:
    """Whether a refresh is, or one was asked for a moment ago and none has ended since."""
    if facts.of(credential).status == Status.REFRESHING:
        return True
    # Every process carries on a reading of the database's clock of its own.
    if asked is None or not now - _EXPECTED_WITHIN < asked <= now + _CLOCKS_DIFFER:
        return False
    ended = RefreshAttempt.objects.filter(
        tenant_id=credential.tenant_id,
        credential_id=credential.pk,
        started_at__gte=asked - _CLOCKS_DIFFER,
    ).exclude(outcome=Outcome.IN_FLIGHT)
    return not ended.exists()


@admin.register(OAuthCredential)
class CredentialAdmin(ActingModelAdmin):
    """Nothing here is typed in: what changes a credential is an import, a refresh, an act."""

    class Media:
        js = (LIVE,)

    list_display = (
        "user_and_tenant", "status", "what_is_wrong", "expiry", "login_deadline", "refreshes",
        "last_use",
    )  # fmt: skip
    list_display_links = ("user_and_tenant",)
    list_filter = (
        ("tenant", RelatedDropdownFilter), StatusFilter, FailingFilter, ExpiryFilter, LoginFilter,
        UnusedFilter,
    )  # fmt: skip
    list_before_template = "admin/tokens/oauthcredential/shortcuts.html"
    list_fullwidth = True
    list_offers_all = True
    search_fields = ("user_id", "account_email")
    search_help_text = gettext_lazy("Beginning of a user id or e-mail address; * before: anywhere")
    empty_title = gettext_lazy("No credential is kept here yet.")
    empty_says = gettext_lazy(
        "Begin with a login. On the machine where somebody has signed in to Claude Code, or with "
        "their file at hand, run:"
    )
    empty_command = (
        "oauthvault import_credentials ~/.claude/.credentials.json --tenant acme --user alice"
    )
    # As the index `one_credential_per_user` has them; and columns that have one of their own.
    ordering = ("tenant_id", "user_id")
    sortable_by = ("expiry", "login_deadline")
    acts = (
        REFRESH, ROTATE, SUSPEND, RESUME, SUSPEND_AUTO_REFRESH, RESUME_AUTO_REFRESH, RESEAL,
        REASSIGN, EXPORT, REVOKE,
    )  # fmt: skip
    actions = (
        "refresh_many", "rotate_many", "suspend_many", "resume_many", "suspend_auto_refresh_many",
        "resume_auto_refresh_many", "reseal_many", "export_many", "revoke_many",
    )  # fmt: skip
    actions_detail = (
        "refresh_one", "rotate_one", "suspend_one", "resume_one", "suspend_auto_refresh_one",
        "resume_auto_refresh_one", "reseal_one", "reassign_one", "revoke_one",
    )  # fmt: skip
    actions_list = ("import_page",)
    fieldsets = (
        (
            gettext_lazy("Access token"),
            {
                "fields": (
                    ("expiry", "next_refresh"),
                    ("generation", "refresh_count"),
                    ("own_refresh_settings",),
                )
            },
        ),
        (
            gettext_lazy("Login"),
            {
                "fields": (
                    ("login_deadline", "refresh_token_held"),
                    ("account", "plan"),
                    ("scope_names",),
                )
            },
        ),
        (
            gettext_lazy("Use"),
            {"fields": (("last_use", "last_refresh"), ("created", "changed"))},
        ),
    )

    refresh_one, refresh_many = pages(REFRESH)
    rotate_one, rotate_many = pages(ROTATE)
    suspend_one, suspend_many = pages(SUSPEND)
    resume_one, resume_many = pages(RESUME)
    suspend_auto_refresh_one, suspend_auto_refresh_many = pages(SUSPEND_AUTO_REFRESH)
    resume_auto_refresh_one, resume_auto_refresh_many = pages(RESUME_AUTO_REFRESH)
    reseal_one, reseal_many = pages(RESEAL)
    reassign_one = pages(REASSIGN)[0]
    export_many = pages(EXPORT)[1]
    revoke_one, revoke_many = pages(REVOKE)

    @action(  # type: ignore[untyped-decorator]  # unfold's, which has no types
        description=gettext_lazy("Import"), permissions=["import"], url_path="import",
        icon="upload_file",
    )  # fmt: skip
    def import_page(self, request: HttpRequest) -> HttpResponse:
        return import_page(request, self)

    def get_queryset(self, request: HttpRequest) -> QuerySet[OAuthCredential]:
        return facts.without_tokens(super().get_queryset(request))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CredentialList

    def get_ordering(self, request: HttpRequest) -> Sequence[Any]:
        """Of those who cannot work the ones first whom only a person can help."""
        if request.GET.get(StatusFilter.parameter_name) == StatusFilter.CANNOT_WORK:
            return (facts.urgency(), F("last_used").desc(nulls_last=True), "pk")
        return super().get_ordering(request)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return (queryset.filter(named(search_term)) if search_term.strip() else queryset), False

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        context = {"shortcuts": shortcuts(request), **(extra_context or {})}
        response: HttpResponse = super().changelist_view(request, context)
        return response

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> OAuthCredential | None:
        credential = super().get_object(request, object_id, from_field)
        if credential is not None:
            facts.attach(credential, now=clock.now())
        return credential

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        return [
            name
            for _title, fieldset in self.fieldsets
            for line in fieldset["fields"]
            for name in line
        ]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Without Django's own deletion: what is stored is revoked, and its record stays."""
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        credential = context["original"]
        now, before = facts.of(credential).now, _time_in(request, "before")
        asked = _time_in(request, ASKED_AT)
        timeline = timeline_of(credential, before=before, now=now)
        context |= {
            "title": _name(credential),
            "credential": credential,
            "facts": facts.of(credential),
            "since": moment(facts.of(credential).since, now=now),
            "timeline": timeline,
            # To the last digit, and in no language's notation.
            "older": None if timeline.older is None else repr(timeline.older),
            "is_newest": before is None,
            "live": "yes" if _is_under_way(credential, asked, now=now) else "no",
            "minutes": busy_minutes(credential, now=now),
            "by_hand": credential.can_refresh() and not credential.refreshes_ahead,
            "import_link": self._import_link(request, credential),
        }
        self.leave_out_impossible(context, credential, now=now)
        self.set_further_apart(context)
        for name in ("problem", "warning"):
            said = getattr(facts.of(credential), name)
            context[name] = facts.with_commands(said) if said else None
        return super().render_change_form(request, context, *args, **kwargs)

    def _import_link(self, request: HttpRequest, credential: OAuthCredential) -> str:
        """Where a new login is what helps, and this operator may store one."""
        if not self.has_import_permission(request) or credential.standing == Standing.REVOKED:
            return ""
        told = facts.of(credential)
        helps = credential.standing == Standing.REAUTHORIZATION_REQUIRED or (
            not told.usable and not credential.has_refresh_token
        )
        return reverse("admin:tokens_oauthcredential_import_page") if helps else ""

    def history_of(self, obj: OAuthCredential) -> QuerySet[AuditEvent]:
        return AuditEvent.objects.filter(tenant=obj.tenant, subject=obj.user_id)

    def tell(self, row: OAuthCredential, *, now: float) -> OAuthCredential:
        facts.attach(row, now=now)
        row.told_as = _name(row)  # type: ignore[attr-defined]
        row.told_state = facts.of(row).badge  # type: ignore[attr-defined]
        return row

    def has_refresh_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "refresh")

    def has_rotate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "rotate")

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "revoke")

    def has_suspend_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "suspend")

    def has_import_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "import")

    def has_pause_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "pause")

    def has_reseal_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "reseal")

    def has_reassign_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "reassign")

    def has_export_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, "export")

    def _may(self, request: HttpRequest, verb: str) -> bool:
        """To act on rows one must be allowed to see them."""
        return self.has_view_permission(request) and request.user.has_perm(
            f"tokens.{verb}_oauthcredential"
        )

    @admin.display(description=gettext_lazy("user, tenant"))
    def user_and_tenant(self, credential: OAuthCredential) -> SafeString:
        """And the account's address, where the user id does not say it."""
        named = (credential.user_id, credential.tenant.slug)
        known = credential.user_id.lower() if credential.account_is_confirmed else ""
        if credential.account_email in ("", known):
            return format_html('{} <span class="ov-subtle">{}</span>', *named)
        return format_html(
            '{} <span class="ov-subtle">{}</span><br><span class="ov-subtle">{}</span>',
            *named,
            _account(credential),
        )

    @admin.display(description=gettext_lazy("account"))
    def account(self, credential: OAuthCredential) -> str:
        return _account(credential) if credential.account_email else _("not named yet")

    @admin.display(description=gettext_lazy("status"))
    def status(self, credential: OAuthCredential) -> SafeString:
        return facts.of(credential).badge

    @admin.display(description=gettext_lazy("access token ends"), ordering="expires_at")
    def expiry(self, credential: OAuthCredential) -> SafeString:
        return moment(facts.token_ends_at(credential), now=facts.of(credential).now)

    @admin.display(description=gettext_lazy("login ends"), ordering="login_expires_at")
    def login_deadline(self, credential: OAuthCredential) -> SafeString:
        when = moment(facts.login_ends_at(credential), now=facts.of(credential).now)
        if facts.login_end_is_estimate(credential):
            return format_html(
                '<span class="ov-estimate" title="{}">≈ {}</span>',
                _("The server has not said when; this is what is usual."),
                when,
            )
        return when

    @admin.display(description=gettext_lazy("last refresh"))
    def last_refresh(self, credential: OAuthCredential) -> SafeString:
        return moment(credential.last_refreshed_at, now=facts.of(credential).now, never=_("never"))

    @admin.display(description=gettext_lazy("refreshes"))
    def refreshes(self, credential: OAuthCredential) -> SafeString:
        """How many, and the last one."""
        if credential.last_refreshed_at is None:
            return format_html("{}", credential.refresh_count)
        last = moment(credential.last_refreshed_at, now=facts.of(credential).now)
        return format_html(
            '<span class="ov-beside">{} <span class="ov-between">·</span> {}</span>',
            credential.refresh_count,
            last,
        )

    @admin.display(description=gettext_lazy("created"))
    def created(self, credential: OAuthCredential) -> SafeString:
        return moment(credential.created_at.timestamp(), now=facts.of(credential).now)

    @admin.display(description=gettext_lazy("last change"))
    def changed(self, credential: OAuthCredential) -> SafeString:
        return moment(credential.updated_at.timestamp(), now=facts.of(credential).now)

    @admin.display(description=gettext_lazy("last used"))
    def last_use(self, credential: OAuthCredential) -> SafeString:
        return moment(credential.last_used, now=facts.of(credential).now, never=_("never"))

    @admin.display(description=gettext_lazy("problem"))
    def what_is_wrong(self, credential: OAuthCredential) -> SafeString:
        """The sentence; the command that would end it is on the credential's own page."""
        told = facts.of(credential)
        said = told.problem or told.warning
        if said is None:
            return moment(None, now=0)
        without = _FROM_A_COMMAND_ON.sub(".", said)
        return format_html('<span class="ov-sentence">{}</span>', facts.with_commands(without))

    @admin.display(description=gettext_lazy("next refresh"))
    def next_refresh(self, credential: OAuthCredential) -> SafeString | str:
        if credential.can_refresh() and not credential.refreshes_ahead:
            return _("automatic refresh is off")
        if credential.refresh_due_at is None:
            return _("none planned")
        return moment(credential.refresh_due_at, now=facts.of(credential).now)

    @admin.display(description=gettext_lazy("refresh settings of its own"))
    def own_refresh_settings(self, credential: OAuthCredential) -> str:
        return own_settings.in_words(credential) or _("none: as its tenant is set")

    @admin.display(description=gettext_lazy("refresh token"))
    def refresh_token_held(self, credential: OAuthCredential) -> str:
        return _("held, sealed") if credential.has_refresh_token else _("none")

    @admin.display(description=gettext_lazy("plan"))
    def plan(self, credential: OAuthCredential) -> str:
        if credential.subscription_type:
            return credential.subscription_type
        return "Max" if credential.is_max else "–"

    @admin.display(description=gettext_lazy("scopes"))
    def scope_names(self, credential: OAuthCredential) -> str:
        return ", ".join(credential.scopes) or "–"
