"""What every answer tells the browser that shows it: what it may run, load and hand on.

Nothing, but for two kinds of pages. No page runs a script that stands in the page itself, and
none loads anything from another host.
"""

from collections.abc import Callable, Mapping

from django.conf import settings
from django.http import HttpRequest, HttpResponse

Policy = Mapping[str, str]

_NOTHING: Policy = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_DOCS: Policy = {
    **_NOTHING,
    "connect-src": "'self'",
    # Swagger UI draws its arrows as data: addresses inside its stylesheet.
    "img-src": "'self' data:",
    "script-src": "'self'",
    "style-src": "'self'",
}
_DASHBOARD: Policy = {
    **_NOTHING,
    "connect-src": "'self'",
    "font-src": "'self'",
    "form-action": "'self'",
    "img-src": "'self' data:",
    # Unfold's pages are driven by Alpine.js, which compiles the expressions in their
    # attributes with `new Function`. A <script> in a page and an onclick stay forbidden.
    "script-src": "'self' 'unsafe-eval'",
    # Unfold writes its colours into a <style> of the page, and Alpine.js sets style attributes.
    "style-src": "'self' 'unsafe-inline'",
}
# Features that no page of ours uses.
_NO_FEATURES = ", ".join(
    f"{feature}=()"
    for feature in (
        "accelerometer", "camera", "display-capture", "geolocation", "gyroscope", "magnetometer",
        "microphone", "midi", "payment", "usb", "xr-spatial-tracking",
    )
)  # fmt: skip


def browser_policy(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Content-Security-Policy, Permissions-Policy, Cross-Origin-Resource-Policy and, where the
    public address is one of https, Strict-Transport-Security: on every answer, errors too."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = _policy_for(request.path)
        response["Permissions-Policy"] = _NO_FEATURES
        response["Server"] = "oauthvault"
        response["Cross-Origin-Resource-Policy"] = "same-origin"
        if settings.SECURE_HSTS_SECONDS:
            # Django says it only to requests that came by TLS, and ours end at the proxy in
            # front. Heard over plain HTTP it is ignored (RFC 6797 section 8.1).
            response["Strict-Transport-Security"] = (
                f"max-age={settings.SECURE_HSTS_SECONDS}; includeSubDomains; preload"
            )
        return response

    return middleware


def _policy_for(path: str) -> str:
    if path.startswith("/admin/"):
        return _FOR_THE_DASHBOARD
    if path.rstrip("/") == "/api/docs":
        return _FOR_DOCS
    return _FOR_ALL_ELSE


def _written(policy: Policy) -> str:
    return "; ".join(f"{directive} {sources}" for directive, sources in policy.items())


_FOR_ALL_ELSE, _FOR_DOCS, _FOR_THE_DASHBOARD = map(_written, (_NOTHING, _DOCS, _DASHBOARD))
