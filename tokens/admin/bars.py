"""How far something is that goes on while somebody looks."""

from django import forms
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

# For the ``Media`` of a page with parts that have an id and data-live="yes".
LIVE = forms.Script("tokens/live.js", defer=True)


def bar(done: int, total: int, *, of: str) -> SafeString:
    """A bar that is read aloud as what it is of, with the numbers beside it."""
    return format_html(
        '<span class="ov-progress"><progress max="{}" value="{}" aria-label="{}"></progress> '
        "<span>{}</span></span>",
        max(total, 1),
        done,
        of,
        _("%(done)d of %(total)d") % {"done": done, "total": total},
    )
