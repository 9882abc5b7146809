"""What the lists share: pages without a count and with an end, and no search for a secret."""

import re
from typing import Any

from django.contrib import messages
from django.contrib.admin.views.main import PAGE_VAR, SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from unfold import paginator

from oauthvault.logging import redact

# A sealed value as it stands in its column (tokens.encryption).
_SEALED = re.compile(r"v1\.[\w-]+\.[\w-]{16}")


# unfold's header says how many results there are, unless the paginator has just this name.
class InfinitePaginator(paginator.InfinitePaginator):
    """Nothing is counted. The database passes over all the rows before a page, so there is a last
    one: whoever would turn two hundred pages looks for something, and finds it by a filter."""

    template_name = "admin/pages_without_a_count.html"
    most_pages = 200

    @cached_property
    def count(self) -> int:
        return self.per_page * self.most_pages


class RefusesSecrets:
    """A list that is asked for something in the shape of a token or a key looks for nothing: it
    says so, under an address that does not hold it. The answer is a redirect, so the browser's
    history keeps the address after it; and the log takes out what has that shape."""

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not is_secret(request.GET.get(SEARCH_VAR, "")):
            answer: HttpResponse = super().changelist_view(  # type: ignore[misc]
                request, extra_context
            )
            return answer
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        messages.error(
            request,
            _(
                "That looks like a token or a key, and was not searched for: those are found by "
                "nobody, and an address is no place for one. If it may have been seen by others, "
                "replace it."
            ),
        )
        kept = request.GET.copy()
        for name in (SEARCH_VAR, PAGE_VAR):
            kept.pop(name, None)
        safe = {name for name, values in kept.lists() if not any(map(is_secret, values))}
        for name in set(kept) - safe:
            del kept[name]
        return HttpResponseRedirect(f"{request.path}?{kept.urlencode()}" if kept else request.path)


def is_secret(text: str) -> bool:
    """Whether there is something in it that has the shape of a token, a key or a sealed value."""
    return redact(text) != text or _SEALED.search(text) is not None
