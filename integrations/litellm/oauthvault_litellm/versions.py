"""Which releases of LiteLLM this was seen working with. It depends on internals, so it matters."""

import re
from importlib import metadata

# Both ends are tested, with `make test-litellm-range`. The oldest is the first that tells a
# callback of a failed attempt, without which no refresh would cure a 401.
OLDEST = "1.100.0"
NEWEST = "1.106.2"


def installed() -> str | None:
    """The release of LiteLLM in this environment; None where there is none."""
    try:
        return metadata.version("litellm")
    except metadata.PackageNotFoundError:
        return None


def is_too_old(version: str) -> bool:
    return _numbers(version) < _numbers(OLDEST)


def doubt(version: str) -> str | None:
    """What speaks against relying on this release; None inside of the tested range."""
    if is_too_old(version):
        return f"LiteLLM {version} is older than {OLDEST}, the oldest that the hook works with"
    # A patch of the newest is not called untested: there is one every few days.
    if _numbers(version)[:2] > _numbers(NEWEST)[:2]:
        return f"LiteLLM {version} is newer than {NEWEST}, the newest that the hook was tested with"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """Major, minor and patch: what a release candidate is a candidate for counts as that."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
