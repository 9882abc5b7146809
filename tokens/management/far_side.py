"""Whether this terminal means the authorization server that the running vault refreshes from."""

from django.conf import settings
from django.core.management.base import CommandError

from tokens import epoch


def another_server() -> str | None:
    """The sentence that says so where this terminal was told of another one; else None."""
    theirs = epoch.deployment().token_url
    if not theirs or theirs == settings.CLAUDE_OAUTH_TOKEN_URL:
        return None
    return (
        f"the running vault refreshes from {theirs}, and this terminal's "
        f"CLAUDE_OAUTH_TOKEN_URL is {settings.CLAUDE_OAUTH_TOKEN_URL}: give it the same one"
    )


def refuse_another_server() -> None:
    """CommandError in such a terminal. A refresh token is shown to the vault's own server only,
    and what is known of another server says nothing of that one."""
    if sentence := another_server():
        raise CommandError(sentence)
