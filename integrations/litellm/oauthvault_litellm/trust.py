"""Whose word on the vault's certificate is taken."""

import os
import ssl

import httpx

from oauthvault_litellm.settings import SettingsError

_NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def certificate_authorities() -> ssl.SSLContext:
    """Those of ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``, which is how a vault with a certificate of
    the house's own is reached; else the public ones that httpx brings.

    The clients themselves are told `trust_env=False`: they take nothing else of the environment,
    neither a proxy nor a password of ``.netrc``. Raises :class:`SettingsError`.
    """
    try:
        return httpx.create_ssl_context(trust_env=True)
    except OSError as error:  # of which ssl.SSLError is one
        named = next((name for name in _NAMES if os.environ.get(name)), "the certificates of httpx")
        raise SettingsError(
            f"{named}: no certificate authorities can be read there ({type(error).__name__}). It "
            "names a PEM file, or a directory of them, with the authority of the vault's "
            "certificate"
        ) from None
