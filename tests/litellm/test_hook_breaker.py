"""Whom the breaker lets through to a vault that does not answer, and how it comes back."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oauthvault_litellm.breaker import FAILURES, PAUSE, Breaker, CircuitOpen


class NobodyAnswered(Exception): ...


class Refused(Exception): ...


@dataclass
class Circuit:
    """A breaker with a clock that the test moves."""

    now: float = 0.0
    changes: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.breaker = Breaker(
            NobodyAnswered, changed=self.changes.append, monotonic=lambda: self.now
        )

    def ask(self, outcome: BaseException | None = None) -> bool:
        """One question with this outcome. Whether it was asked at all."""
        try:
            with self.breaker.question():
                if outcome is not None:
                    raise outcome
        except CircuitOpen:
            return False
        except (NobodyAnswered, Refused, asyncio.CancelledError):
            pass
        return True

    def opened(self) -> "Circuit":
        for _ in range(FAILURES):
            assert self.ask(NobodyAnswered())
        assert self.breaker.is_open
        return self


def test_after_some_failures_in_a_row_nobody_is_let_through() -> None:
    circuit = Circuit().opened()
    with pytest.raises(CircuitOpen) as refused, circuit.breaker.question():
        pass
    assert refused.value.retry_after == 2
    assert circuit.changes == [True]


def test_an_answer_in_between_begins_the_row_anew() -> None:
    circuit = Circuit()
    for _ in range(10):
        for _ in range(FAILURES - 1):
            circuit.ask(NobodyAnswered())
        circuit.ask()
    assert not circuit.breaker.is_open


def test_a_refusal_is_an_answer() -> None:
    circuit = Circuit()
    for _ in range(10 * FAILURES):
        circuit.ask(Refused())
    assert not circuit.breaker.is_open


def test_after_the_pause_one_question_at_a_time_finds_out() -> None:
    circuit = Circuit().opened()
    circuit.now = PAUSE
    with circuit.breaker.question():
        assert not circuit.ask()
    assert circuit.ask()
    assert circuit.changes == [True, False]


def test_a_probe_that_fails_begins_another_pause() -> None:
    circuit = Circuit().opened()
    circuit.now = PAUSE
    assert circuit.ask(NobodyAnswered())
    assert not circuit.ask()
    circuit.now += PAUSE
    assert circuit.ask()
    assert circuit.changes == [True, False]


def test_a_probe_whose_caller_goes_away_leaves_the_place_to_the_next() -> None:
    circuit = Circuit().opened()
    circuit.now = PAUSE
    assert circuit.ask(asyncio.CancelledError())
    assert circuit.ask()
    assert not circuit.breaker.is_open


@pytest.mark.parametrize("late", [None, NobodyAnswered()])
def test_a_question_of_before_says_nothing_about_now(late: Exception | None) -> None:
    circuit = Circuit()
    slow = circuit.breaker.question()
    slow.__enter__()
    circuit.opened()
    circuit.now = PAUSE
    with circuit.breaker.question():
        if late is None:
            slow.__exit__(None, None, None)
        else:
            assert not slow.__exit__(type(late), late, None)
        assert not circuit.ask()
    assert circuit.changes == [True, False]


OUTCOMES = st.sampled_from(["answer", "refusal", "nothing", "gone"])


@given(st.lists(st.tuples(st.floats(0, 2), OUTCOMES), max_size=60))
def test_whatever_happens_the_circuit_is_open_only_for_a_reason_and_never_for_good(
    story: list[tuple[float, str]],
) -> None:
    circuit = Circuit()
    in_a_row, last_failure = 0, 0.0
    for pause, what in story:
        circuit.now += pause
        asked = circuit.ask(
            {
                "answer": None,
                "refusal": Refused(),
                "nothing": NobodyAnswered(),
                "gone": asyncio.CancelledError(),
            }[what]
        )
        # Not asked: only after failures in a row, and only for as long as the pause.
        assert asked or (in_a_row >= FAILURES and circuit.now < last_failure + PAUSE)
        if asked and what == "nothing":
            in_a_row, last_failure = in_a_row + 1, circuit.now
        elif asked and what != "gone":
            in_a_row = 0
        assert circuit.breaker.is_open == (in_a_row >= FAILURES)
