"""What became of a refresh that failed, as an operator reads it; the order is that of a chart."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from tokens.models import Outcome

# Those first that only a new login, or the account's owner, will help.
WORDS: dict[Outcome, str | Promise] = {
    Outcome.INVALID_GRANT: _("login refused"),
    Outcome.INVALID_SCOPE: _("scopes refused"),
    Outcome.ACCOUNT_ON_HOLD: _("account on hold"),
    Outcome.MISDIRECTED: _("another user's tokens came"),
    Outcome.RATE_LIMITED: _("asked to wait"),
    Outcome.UPSTREAM_ERROR: _("no token in the answer"),
    Outcome.UNREACHABLE: _("server not reached"),
    Outcome.UNKNOWN: _("sent, no answer"),
    Outcome.NOT_SAVED: _("answer not saved"),
}
# Which of them look alike: who must act is the same.
TONES: dict[Outcome, str] = {
    Outcome.INVALID_GRANT: "refused",
    Outcome.INVALID_SCOPE: "refused",
    Outcome.ACCOUNT_ON_HOLD: "refused",
    Outcome.MISDIRECTED: "refused",
    Outcome.RATE_LIMITED: "wait",
    Outcome.UPSTREAM_ERROR: "server",
    Outcome.UNREACHABLE: "server",
    Outcome.UNKNOWN: "lost",
    Outcome.NOT_SAVED: "lost",
}
