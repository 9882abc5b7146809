"""Every address that the vault has, read from its URL configuration, so that a new one is tested
on the day it is born."""

from collections.abc import Iterator, Mapping

from django.urls import URLPattern, URLResolver, get_resolver

ADMIN = "admin/"


def api_paths() -> list[str]:
    """Every address outside the dashboard, without the twins that end in a slash."""
    found = []
    for entry in get_resolver("oauthvault.urls").url_patterns:
        if not str(entry.pattern).startswith(ADMIN):
            found += [f"/{path}" for path, _ in _walk(entry)]
    assert len(found) == len(set(found))
    return sorted(path for path in found if path == "/" or not path.endswith("/"))


def admin_patterns() -> Iterator[tuple[str, URLPattern]]:
    """Every pattern below /admin/, as ``tokens/tenant/<path:object_id>/change/``, with its view."""
    for entry in get_resolver("oauthvault.urls").url_patterns:
        if str(entry.pattern).startswith(ADMIN):
            yield from _walk(entry)


def _walk(entry: URLPattern | URLResolver, before: str = "") -> Iterator[tuple[str, URLPattern]]:
    path = before + str(entry.pattern)
    if isinstance(entry, URLResolver):
        for inner in entry.url_patterns:
            yield from _walk(inner, path)
    else:
        yield path, entry


def filled(pattern: str, values: Mapping[str, str]) -> str:
    """The pattern with a value in the place of each parameter. KeyError for one that nobody has
    thought of: give it a value where this is called."""
    path = "/" + pattern.replace("^", "").replace("$", "")
    for name in values:
        for written in (f"<path:{name}>", f"<str:{name}>", f"<int:{name}>", f"<{name}>"):
            path = path.replace(written, values[name])
    if "<" in path:
        raise KeyError(f"a parameter without a value: {pattern}")
    return path
