"""What a person must do, in words: one sentence per problem, used by API, admin and commands."""

import shlex

from tokens.models import OAuthCredential, Problem, Status

NEW_LOGIN = (
    "Sign in to Claude again and store the new login: "
    "`oauthvault import_credentials ~/.claude/.credentials.json --tenant {tenant} --user {user}`"
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
}
_ENDED = {Problem.ROTATED_ELSEWHERE, Problem.ANSWER_LOST, Problem.LOGIN_ENDED}


def describe_problem(credential: OAuthCredential, *, now: float) -> str | None:
    """None when all is well, else what happened and, where a person must act, the command."""
    # People copy these commands into a shell: a user id must stay one word there.
    where = {"tenant": credential.tenant.slug, "user": shlex.quote(credential.user_id)}
    status = credential.status(now=now)
    if status == Status.REVOKED:
        return f"The credential was revoked. {NEW_LOGIN.format(**where)}"
    if status == Status.QUARANTINED:
        return (
            "The database seems to be a restored one. Nothing is refreshed until an operator "
            "runs `oauthvault release_quarantine`."
        )
    if status == Status.SUSPENDED:
        return (
            "An operator has suspended this credential: "
            "`oauthvault resume --tenant {tenant} --user {user}` ends that.".format(**where)
        )
    if credential.problem:
        why = _WHY[Problem(credential.problem)]
        if credential.problem in _ENDED:
            return f"{why} {NEW_LOGIN.format(**where)}"
        if credential.problem == Problem.ACCOUNT_ON_HOLD:
            return f"{why} Its owner must settle that with the provider."
        return why
    if status == Status.EXPIRED and not credential.has_refresh_token:
        return "The access token has expired, and there is no refresh token. " + NEW_LOGIN.format(
            **where
        )
    if status == Status.EXPIRED:
        return (
            "The access token has expired and automatic refresh is off: "
            "`oauthvault refresh --tenant {tenant} --user {user}`".format(**where)
        )
    if status == Status.OUTCOME_UNKNOWN:
        return "The answer to the last refresh is missing; the refresh is tried once more."
    return None
