"""What a person must do, in words: one sentence per problem, used by API, admin and commands."""

import shlex

from django.conf import settings

from tokens import endings
from tokens.models import OAuthCredential, Problem, Standing, Status

NEW_LOGIN = (
    "Sign in to Claude again and store the new login: "
    "`oauthvault import_credentials ~/.claude/.credentials.json --tenant {tenant} --user {user}`"
)

# A setup-token comes from no file of Claude Code's.
ANOTHER_SETUP = (
    "Make a new token (`claude setup-token`), write it into a JSON file with accessToken and "
    "expiresAt, and store it: "
    "`oauthvault import_credentials FILE --tenant {tenant} --user {user}`"
)

RESTORED = (
    "The database seems to be a restored one. Nothing is refreshed until an operator runs "
    "`oauthvault release_quarantine`."
)

_WHY = {
    Problem.ROTATED_ELSEWHERE: (
        "The authorization server no longer accepts this login's refresh token: another holder "
        "of this login has rotated it, or the login was ended."
    ),
    Problem.ANSWER_LOST: (
        "The answer to our last refresh was lost, and the refresh token was spent by it."
    ),
    Problem.LOGIN_ENDED: "The login has reached its age limit.",
    Problem.MISDIRECTED: (
        "The authorization server answered our last refresh with the tokens of another user's "
        "login. They were not stored, and this login is not presented again."
    ),
    Problem.INVALID_SCOPE: "The authorization server refuses the scopes of this login.",
    Problem.ACCOUNT_ON_HOLD: "The account is on hold at the provider.",
    Problem.RATE_LIMITED: "The authorization server asks us to wait; the refresh is tried again.",
    Problem.UPSTREAM_ERROR: (
        "The authorization server answers with something that is no token; "
        "the refresh is tried again."
    ),
    Problem.UPSTREAM_UNAVAILABLE: (
        "The authorization server cannot be reached; the refresh is tried again."
    ),
    Problem.NO_ANSWER: (
        "The answer to the last refresh is missing, or had no token in it; the refresh is tried "
        "once more."
    ),
}
_ENDED = {
    Problem.ROTATED_ELSEWHERE,
    Problem.ANSWER_LOST,
    Problem.LOGIN_ENDED,
    Problem.MISDIRECTED,
}


def describe_problem(credential: OAuthCredential, *, now: float) -> str | None:
    """None when all is well, else what happened and, where a person must act, the command.
    Where nothing is wrong yet: that the login is about to end."""
    return describe_obstacle(credential, now=now) or describe_end(credential, now=now)


def describe_obstacle(credential: OAuthCredential, *, now: float) -> str | None:
    """What is wrong now. None when nothing is, however near the end of the login."""
    where = _where(credential)
    status = credential.status(now=now)
    if status == Status.REVOKED:
        return f"The credential was revoked. {NEW_LOGIN.format(**where)}"
    if status == Status.QUARANTINED:
        return RESTORED
    if status == Status.SUSPENDED:
        return (
            "An operator has suspended this credential: "
            "`oauthvault resume --tenant {tenant} --user {user}` ends that.".format(**where)
        )
    spent = credential.unanswered_presentations >= settings.MOST_PRESENTATIONS
    if spent and status == Status.OUTCOME_UNKNOWN:
        return f"{_WHY[Problem.ANSWER_LOST]} {NEW_LOGIN.format(**where)}"
    if credential.problem:
        why = _WHY[Problem(credential.problem)]
        if credential.problem in _ENDED:
            return f"{why} {NEW_LOGIN.format(**where)}"
        if credential.problem == Problem.ACCOUNT_ON_HOLD:
            return f"{why} Its owner must settle that with the provider."
        return why
    if status == Status.EXPIRED and not credential.has_refresh_token:
        return (
            "The access token has expired, and there is no refresh token. "
            + ANOTHER_SETUP.format(**where)
        )
    if status == Status.EXPIRED:
        return (
            "The access token has expired and automatic refresh is off: "
            "`oauthvault refresh --tenant {tenant} --user {user}`".format(**where)
        )
    if status == Status.OUTCOME_UNKNOWN:
        return "The answer to the last refresh is missing; the refresh is tried once more."
    return None


def describe_end(credential: OAuthCredential, *, now: float) -> str | None:
    """That a living login ends within a week, or should have ended; None for any other."""
    end = endings.ends_at(credential)
    if credential.standing != Standing.ACTIVE or end is None:
        return None
    left = end - now
    if left > endings.WARNING_DAYS[0] * endings.DAY:
        return None
    if not credential.has_refresh_token:
        new_token = ANOTHER_SETUP.format(**_where(credential))
        return f"This credential has no refresh token and ends {_ahead(left)}. {new_token}"
    new_login = NEW_LOGIN.format(**_where(credential))
    if endings.is_estimate(credential):
        when = f"ends {_ahead(left)}" if left > 0 else "may end at any moment"
        when += " (an estimate, counted from the import)"
    else:
        when = f"ends {_ahead(left)}" if left > 0 else "has reached its end"
    return f"This login {when}, and no refresh extends it. {new_login}"


def _where(credential: OAuthCredential) -> dict[str, str]:
    # People copy these commands into a shell: a user id must stay one word there.
    return {"tenant": credential.tenant.slug, "user": shlex.quote(credential.user_id)}


def _ahead(seconds: float) -> str:
    """``in 6 days``, ``in 30 hours``, ``in 1 minute``: in the largest unit of which there are
    two."""
    for unit, length in (("day", endings.DAY), ("hour", 3600)):
        if seconds >= 2 * length:
            return f"in {round(seconds / length)} {unit}s"
    minutes = max(1, round(seconds / 60))
    return f"in {minutes} minute{'s' if minutes > 1 else ''}"
