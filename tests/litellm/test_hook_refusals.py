"""Whose credential it is, and what a caller is told who has none."""

import pytest
from oauthvault_litellm.client import (
    KeyRefused,
    NoToken,
    RefreshDelayed,
    TokenUnusable,
    TokenWithheld,
    VaultError,
    VaultUnreachable,
)
from oauthvault_litellm.identity import credential_owner
from oauthvault_litellm.refusals import Refusal, StandIn, may_fall_back, refusal_for


def error(kind: type[VaultError], code: str, status: int = 409) -> VaultError:
    return kind("the vault said why", code=code, status=status)


def test_one_credential_serves_all_where_there_are_no_users() -> None:
    for user_id in ("alice", "default", "", None):
        assert credential_owner(user_id, multi_user=False) == "default"


def test_each_user_has_their_own_where_there_are_many() -> None:
    assert credential_owner("alice", multi_user=True) == "alice"
    assert credential_owner("zoë/ä b@example.com", multi_user=True) == "zoë/ä b@example.com"


@pytest.mark.parametrize(
    ("user_id", "sentence"),
    [
        (None, "has no user id"),
        ("", "has no user id"),
        ("default_user_id", "master key"),
        ("default", "named 'default'"),
        ("a" * 257, "at most 256"),
        ("alice\nbob", "no control characters"),
        ("alice\x7f", "no control characters"),
        ("\ud800", "no control characters"),
    ],
)
def test_a_caller_who_is_nobody_in_particular_is_refused(
    user_id: str | None, sentence: str
) -> None:
    with pytest.raises(Refusal, match=sentence) as refused:
        credential_owner(user_id, multi_user=True)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("problem", "status", "words"),
    [
        (error(NoToken, "no_token", 404), 401, "No OAuth token found for user 'alice'"),
        (error(TokenUnusable, "token_expired"), 401, "OAuth token expired for user 'alice'"),
        (error(TokenUnusable, "reauthorization_required"), 401, "Sign in to Claude"),
        (error(TokenWithheld, "revoked"), 401, "was revoked"),
        (error(TokenWithheld, "suspended"), 403, "Ask the operator"),
        (error(TokenWithheld, "quarantined"), 403, "Ask the operator"),
        (error(TokenWithheld, "tenant_suspended", 403), 403, "Ask the operator"),
        (error(RefreshDelayed, "upstream_rate_limited", 429), 429, "Failed to refresh token"),
        (error(RefreshDelayed, "upstream_unavailable", 503), 503, "again later"),
        (error(KeyRefused, "invalid_key", 401), 503, "does not accept this proxy"),
        (VaultUnreachable("the token vault did not answer"), 503, "again later"),
        (error(VaultError, "something_new", 418), 503, "something_new"),
    ],
)
def test_every_problem_ends_in_a_status_and_a_sentence(
    problem: VaultError, status: int, words: str
) -> None:
    refusal = refusal_for(problem, user="alice")
    assert refusal.status == status
    assert words in refusal.sentence
    assert refusal.code == problem.code


def test_the_wait_that_the_vault_names_is_passed_on() -> None:
    delayed = RefreshDelayed("later", code="upstream_rate_limited", status=429, retry_after=30)
    assert refusal_for(delayed, user="alice").retry_after == 30


def test_an_api_key_stands_in_only_where_nothing_was_taken_away() -> None:
    assert may_fall_back(error(NoToken, "no_token", 404))
    assert may_fall_back(error(TokenUnusable, "reauthorization_required"))
    assert may_fall_back(VaultUnreachable("gone"))
    for kind, code in [
        (TokenUnusable, "token_expired"),
        (TokenUnusable, "no_refresh_token"),
        (TokenWithheld, "revoked"),
        (TokenWithheld, "suspended"),
        (TokenWithheld, "quarantined"),
        (TokenWithheld, "tenant_suspended"),
        (RefreshDelayed, "upstream_rate_limited"),
        (RefreshDelayed, "upstream_unavailable"),
        (KeyRefused, "invalid_key"),
    ]:
        assert not may_fall_back(error(kind, code))


AWAY = VaultUnreachable("gone")


def test_a_vault_kept_from_answering_does_not_undo_a_revocation() -> None:
    stand_in = StandIn(allowed=True)
    assert stand_in.may_serve("alice", AWAY)
    for kind, code in [
        (TokenWithheld, "revoked"),
        (TokenWithheld, "suspended"),
        (RefreshDelayed, "upstream_rate_limited"),
    ]:
        assert not stand_in.may_serve("alice", error(kind, code))
        assert not stand_in.may_serve("alice", AWAY)
        assert stand_in.may_serve("bob", AWAY)


def test_a_revocation_that_a_report_of_a_401_brought_to_light_counts_as_well() -> None:
    stand_in = StandIn(allowed=True)
    stand_in.heard("alice", AWAY)
    assert stand_in.may_serve("alice", AWAY)
    stand_in.heard("alice", error(TokenWithheld, "revoked"))
    assert not stand_in.may_serve("alice", AWAY)


def test_the_vault_s_next_word_counts() -> None:
    stand_in = StandIn(allowed=True)
    stand_in.refuse("alice")
    assert stand_in.may_serve("alice", error(NoToken, "no_token", 404))
    assert stand_in.may_serve("alice", AWAY)
    stand_in.refuse("alice")
    stand_in.token_given("alice")
    assert stand_in.may_serve("alice", AWAY)


def test_where_no_api_key_may_stand_in_none_does() -> None:
    stand_in = StandIn(allowed=False)
    for problem in (AWAY, error(NoToken, "no_token", 404)):
        assert not stand_in.may_serve("alice", problem)


def test_a_token_that_is_handed_out_does_not_undo_a_429_of_anthropics() -> None:
    now = 0.0
    stand_in = StandIn(allowed=True, monotonic=lambda: now)
    away = VaultUnreachable("gone")
    stand_in.limit("alice")
    stand_in.token_given("alice")
    assert not stand_in.may_serve("alice", away)
    assert stand_in.may_serve("bob", away)
    now = 5 * 3600
    assert stand_in.may_serve("alice", away)
