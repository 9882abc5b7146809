"""Tokens that must be found nowhere, and the sealed columns they lie in."""

import secrets

from tokens.models import OAuthCredential


class Canaries:
    """Every token and ciphertext that went into the vault in one test."""

    def __init__(self) -> None:
        self._planted: list[str] = []

    def token(self, kind: str) -> str:
        token = f"sk-ant-{kind}-CANARY{secrets.token_urlsafe(24)}"
        self._planted.append(token)
        return token

    def sealed(self, credential: OAuthCredential) -> None:
        row = OAuthCredential.objects.get(pk=credential.pk)
        for column in (row.access_token_encrypted, row.refresh_token_encrypted):
            if column:
                self._planted.append(column)

    def found_in(self, text: str) -> list[str]:
        """Which of them are in ``text``, be it only a part: any 16 characters in a row that
        are their own, after what all tokens begin with."""
        return [
            secret
            for secret in self._planted
            if any(secret[at : at + 16] in text for at in range(20, len(secret) - 15))
        ]
