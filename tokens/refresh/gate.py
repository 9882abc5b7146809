"""The door to the authorization server, which a 429 closes for the whole deployment."""

from django.conf import settings

from tokens.errors import UpstreamRateLimited
from tokens.models import Upstream


def closed_until() -> float:
    """Until when (Unix seconds) a 429 forbids every refresh; 0 when none does."""
    row = Upstream.objects.filter(token_url=settings.CLAUDE_OAUTH_TOKEN_URL).first()
    return row.closed_until if row is not None else 0.0


def refuse_while_closed(now: float) -> None:
    """UpstreamRateLimited while a 429 governs."""
    until = closed_until()
    if until > now:
        raise UpstreamRateLimited(
            "Failed to refresh token: the authorization server asks everybody to wait.",
            retry_after=until - now,
        )


def close(until: float) -> None:
    """Keep it closed until then, for every worker; never for less than it was."""
    row, _ = Upstream.objects.get_or_create(token_url=settings.CLAUDE_OAUTH_TOKEN_URL)
    Upstream.objects.filter(pk=row.pk, closed_until__lt=until).update(closed_until=until)
