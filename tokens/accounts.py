"""Operators' accounts, as far as Django does not keep them: a password that must be changed, the
end of all sessions, and the password as a proof that it is still the operator who is there."""

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import transaction

from tokens import roles
from tokens.models import Account


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a proof. ``wait``: it was not looked at, and is not for so many seconds."""

    good: bool
    wait: float = 0.0
    by_recovery_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What stands between an operator who has signed in and the dashboard."""

    must_change_password: bool
    has_second_factor: bool
    sessions: int


def standing_of(operator: User) -> Standing:
    """In one query, because every page asks."""
    row = User.objects.values_list(
        "account__must_change_password", "account__sessions", "secondfactor__confirmed"
    ).get(pk=operator.pk)
    return Standing(
        must_change_password=bool(row[0]), sessions=row[1] or 0, has_second_factor=bool(row[2])
    )


def prove_password(*, operator: User, password: str, now: float) -> Verdict:
    """Whether it is the operator's password, asked of somebody who has signed in.

    Each wrong one makes the next wait longer. It is not for the sign-in itself: there a stranger,
    who knows a name, could keep the operator out.
    """
    with transaction.atomic():
        account = _locked(operator)
        if wait := account.wait(now=now):
            return Verdict(good=False, wait=wait)
        # Counted before the slow comparison, which needs no lock: guesses of one moment count.
        account.note_failure(now=now)
    good = operator.check_password(password)
    with transaction.atomic():
        if good:
            _locked(operator).throttle_reset()
        else:
            name = operator.get_username()
            roles.record(
                action="prove_password", subject=name, actor=f"operator {name}", now=now,
                outcome="refused",
            )  # fmt: skip
    return Verdict(good=good)


def end_sessions(*, operator: User, actor: str, now: float, why: str) -> int:
    """From their next request on every session of the operator has ended. The number that a session
    must have to be one of theirs: whoever asks for it may keep the one that they are in."""
    with transaction.atomic():
        account = _locked(operator)
        account.sessions += 1
        account.save(update_fields=["sessions"])
        roles.record(
            action="end_sessions", subject=operator.get_username(), actor=actor, now=now, why=why
        )
    return account.sessions


def require_new_password(*, operator: User) -> None:
    """Their password is known to somebody else: they see nothing before they have changed it."""
    Account.objects.update_or_create(operator=operator, defaults={"must_change_password": True})


def hold(*, operator: User) -> bool:
    """Nobody else writes the account to the end of this transaction. False: since the operator
    was read it was deactivated, or was given another password."""
    row = User.objects.select_for_update().filter(pk=operator.pk, is_active=True).first()
    return row is not None and row.password == operator.password


def own_password_set(*, operator: User, now: float) -> None:
    """The operator has chosen one that nobody else knows."""
    name = operator.get_username()
    with transaction.atomic():
        Account.objects.filter(operator=operator).update(must_change_password=False)
        roles.record(action="set_password", subject=name, actor=f"operator {name}", now=now)


def _locked(operator: User) -> Account:
    Account.objects.get_or_create(operator=operator)
    account: Account = Account.objects.select_for_update().get(operator=operator)
    return account
