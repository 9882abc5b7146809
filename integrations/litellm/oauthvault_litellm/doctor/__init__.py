"""What a proxy's owner must still do: the config, the environment and the vault, looked at without
starting the proxy.

Nothing is changed by it, no token is asked for, and nothing that it prints is a secret. It needs
neither LiteLLM nor its modules of this package, so that it can say that LiteLLM is missing.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from oauthvault_litellm.doctor import environment, proxy, vault
from oauthvault_litellm.doctor.config import ConfigError, read_config
from oauthvault_litellm.doctor.finding import Finding, wrong

__all__ = ["Finding", "examine"]


def examine(path: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """One finding after the other; the first that is wrong is the first to look at."""
    yield from environment.findings(environ)
    try:
        config = read_config(path, environ)
    except ConfigError as error:
        yield wrong("config", str(error))
        return
    yield from proxy.findings(config)
    settings = proxy.settings(config)
    if settings is not None and settings.enabled:
        yield from vault.findings(settings, direct_bearer=proxy.direct_bearer(config))
