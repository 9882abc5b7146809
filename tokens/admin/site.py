"""The frame around the pages: what stands in the sidebar, our stylesheet and our scripts."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse
from django.utils.translation import gettext_lazy as _


def stylesheet(request: HttpRequest) -> str:
    return static("tokens/admin.css")


def access_script(request: HttpRequest) -> str:
    return static("tokens/access.js")


def times_script(request: HttpRequest) -> str:
    return static("tokens/times.js")


def favicon(request: HttpRequest) -> str:
    return static("tokens/favicon.svg")


def account_links(request: HttpRequest) -> list[dict[str, Any]]:
    """What stands below the operator's own name."""
    return [
        {"title": _("Your sign-in"), "link": reverse("account")},
        {"title": _("Change password"), "link": reverse("admin:password_change")},
    ]


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """What this operator may see, and nothing else."""
    return [
        {
            "title": None,
            "items": [
                {"title": _("Home"), "icon": "home", "link": reverse("admin:index")},
                _entry(_("Credentials"), "badge", "tokens", "oauthcredential"),
                _entry(_("Jobs"), "pending_actions", "tokens", "job"),
                _entry(_("Tenants"), "domain", "tokens", "tenant"),
                _entry(_("API keys"), "vpn_key", "api", "apikey"),
                _entry(_("Audit trail"), "history", "tokens", "auditevent"),
            ],
        },
        {
            "title": _("Who may sign in"),
            "separator": True,
            "items": [
                _entry(_("Operators"), "person", "auth", "user"),
                _entry(_("Groups"), "group", "auth", "group"),
            ],
        },
    ]


def _entry(title: Any, icon: str, app: str, model: str) -> dict[str, Any]:
    return {
        "title": title,
        "icon": icon,
        "link": reverse(f"admin:{app}_{model}_changelist"),
        "permission": _may_view(app, model),
    }


def _may_view(app: str, model: str) -> Callable[[HttpRequest], bool]:
    def allowed(request: HttpRequest) -> bool:
        return request.user.has_perm(f"{app}.view_{model}") or request.user.has_perm(
            f"{app}.change_{model}"
        )

    return allowed
