"""The proxy's environment: what is installed there, and the variables that change what happens."""

import platform
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from oauthvault_litellm import __version__, collector, versions
from oauthvault_litellm.doctor.finding import Finding, ok, warning, wrong


def findings(environ: Mapping[str, str]) -> Iterator[Finding]:
    yield _litellm(versions.installed())
    yield _python()
    yield _prisma()
    yield _redaction(environ)


def _litellm(version: str | None) -> Finding:
    if version is None:
        return wrong(
            "litellm", "is not installed here: run this with the Python that runs the proxy"
        )
    doubt = versions.doubt(version)
    if doubt is None:
        return ok("litellm", f"{version}, with oauthvault-litellm {__version__}")
    if versions.is_too_old(version):
        return wrong("litellm", f"{doubt}: upgrade it")
    return warning("litellm", f"{doubt}: try it out before you rely on it")


def _python() -> Finding:
    version = platform.python_version()
    if collector.IS_AT_RISK:
        return warning(
            "python",
            f"is {version}: before 3.12 a stream of LiteLLM's that is given up can crash the "
            "interpreter (CPython issue 148891). The hook keeps the known cause away; 3.12 or "
            "newer is free of it",
        )
    return ok("python", f"is {version}")


def _prisma() -> Finding:
    if find_spec("prisma") is None:
        return warning(
            "prisma",
            "is not installed, and without it LiteLLM answers a request without a key with 500 "
            "in place of 401: pip install prisma",
        )
    return ok("prisma", "is installed")


def _redaction(environ: Mapping[str, str]) -> Finding:
    if environ.get("LITELLM_DISABLE_REDACT_SECRETS", "").lower() == "true":
        return wrong(
            "redaction",
            "LITELLM_DISABLE_REDACT_SECRETS is true: LiteLLM writes tokens into its log. Unset it",
        )
    return ok("redaction", "LiteLLM keeps keys and tokens out of its log")
