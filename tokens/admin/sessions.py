"""How long a sign-in lasts: some time without a request, some in all, and until the operator, or
whoever may, ends all of theirs."""

from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy
from django_otp import DEVICE_ID_SESSION_KEY

from tokens import accounts, clock
from tokens.accounts import Standing

# In the session: Unix seconds, and the number that `accounts.end_sessions` counts.
_BEGAN, _SEEN, _NUMBER = "began_at", "seen_at", "sessions"
# And when the operator last proved, within the session, that it is they.
_PROVED = "proved_at"
# Seconds for which that, or the sign-in itself, is believed.
_BELIEVED_FOR = 600
# Seconds between two writings of when it was seen last. A page is no reason to write.
_WRITTEN_EVERY = 60


@receiver(user_logged_in)
def begin(sender: Any, request: HttpRequest, user: Any, **kwargs: Any) -> None:
    now = clock.now()
    number = accounts.standing_of(user).sessions
    request.session.update({_BEGAN: now, _SEEN: now, _NUMBER: number})
    # Django keeps the session of whoever signs in again as themselves. It begins anew, and so does
    # the second step.
    request.session.pop(DEVICE_ID_SESSION_KEY, None)
    request.session.pop(_PROVED, None)
    request.session.cycle_key()


def keep(request: HttpRequest) -> None:
    """All others of the operator have ended, and this one goes on."""
    request.session[_NUMBER] = accounts.standing_of(request.user).sessions  # type: ignore[arg-type]
    request.session.cycle_key()


def why_ended(request: HttpRequest, standing: Standing, *, now: float) -> str | Promise | None:
    """What to tell the operator; None: the session goes on."""
    began, seen = request.session.get(_BEGAN), request.session.get(_SEEN)
    if began is None or seen is None or request.session.get(_NUMBER) != standing.sessions:
        return gettext_lazy("This session was ended. Sign in again.")
    if now >= began + settings.OAUTHVAULT_ADMIN_SESSION_LIFE:
        return gettext_lazy("Your session had lasted as long as one may. Sign in again.")
    if now >= seen + settings.OAUTHVAULT_ADMIN_SESSION_IDLE:
        return gettext_lazy("Your session was not used for a while and has ended. Sign in again.")
    return None


def is_asked_by_itself(request: HttpRequest) -> bool:
    """By an open page (`live.js`), which goes on when nobody is there."""
    return "X-Asked-By-Itself" in request.headers


def messages_for_a_person(request: HttpRequest) -> dict[str, Any]:
    """A context processor: what there is to say waits for a page that somebody sees."""
    return {"messages": ()} if is_asked_by_itself(request) else {}


def note_seen(request: HttpRequest, *, now: float) -> None:
    """What a page asks for by itself does not count."""
    if is_asked_by_itself(request):
        return
    if now - request.session[_SEEN] >= _WRITTEN_EVERY:
        request.session[_SEEN] = now


def note_proof(request: HttpRequest, *, now: float) -> None:
    request.session[_PROVED] = now


def is_proved(request: HttpRequest, *, now: float) -> bool:
    """Whether it was the operator within the last ten minutes, and not whoever found the session
    open. What was proved in the future was proved by a clock that has been set back since."""
    proved: float = request.session.get(_PROVED, request.session[_BEGAN])
    return proved <= now < proved + _BELIEVED_FOR


def idle_limit() -> int:
    return int(settings.OAUTHVAULT_ADMIN_SESSION_IDLE)


def is_let_in(request: HttpRequest) -> bool:
    """Whether nothing stands between the operator and the dashboard (`api.gate`)."""
    return not getattr(request, "must_first", None)


def ends_at(request: HttpRequest) -> float:
    """Unix seconds: the end of it, whatever is done until then."""
    return float(request.session[_BEGAN] + settings.OAUTHVAULT_ADMIN_SESSION_LIFE)
