"""Ask: one exchange with the authorization server, under one deadline."""

import random
import time

from django.conf import settings

from tokens import oauth_client
from tokens.models import Backoff, Tenant
from tokens.oauth_client import Granted, Refusal, Refused
from tokens.refresh.claim import Claim

# Seconds between the quick tries inside one claim, before the configured back-off grows it.
_RETRY_UNIT = 0.5


def present(claim: Claim) -> tuple[Granted | Refused, int]:
    """The answer and the number of tries. Only a request that was answered with a server
    error, or never left us, is sent again; all of it within one deadline, which counts from
    the claim: a process that was stopped in between may have lost its lease."""
    ends = claim.claimed_monotonic + settings.REFRESH_DEADLINE
    tenant = claim.credential.tenant
    tries = 0
    if time.monotonic() >= ends:
        return Refused(kind=Refusal.UNREACHABLE), tries
    while True:
        tries += 1
        answer = oauth_client.refresh(claim.refresh_token, deadline=ends - time.monotonic())
        if isinstance(answer, Granted) or not answer.worth_retrying_at_once:
            return answer, tries
        pause = _pause(tries, tenant)
        if tries > tenant.retries or time.monotonic() + pause + 1 > ends:
            return answer, tries
        time.sleep(pause)


def _pause(tries: int, tenant: Tenant) -> float:
    growth = {Backoff.EXPONENTIAL: 2 ** (tries - 1), Backoff.LINEAR: tries, Backoff.FIXED: 1}
    factor = growth[tenant.backoff]
    return float(_RETRY_UNIT * factor * random.uniform(0.5, 1.5))  # noqa: S311  spreads load
