"""Refusals for people: a plain page that says what happened, and no more."""

from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html

from oauthvault.middleware import current_request_id

# Of no template, so that it can be shown when templates are what is wrong. It loads nothing.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{sentence}</p>
<p>Request {request_id}</p>
</main>
</body>
</html>
"""


def is_for_people(request: HttpRequest) -> bool:
    """Whether a page is expected there, and not a problem."""
    return request.path.startswith("/admin/")


def page(*, title: str, sentence: str, status: int) -> HttpResponse:
    response = HttpResponse(
        format_html(_PAGE, title=title, sentence=sentence, request_id=current_request_id.get()),
        status=status,
    )
    response["Cache-Control"] = "no-store"
    return response
