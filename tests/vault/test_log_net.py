"""The last net under the log: whatever has the shape of a token or a key is taken out."""

import logging
import string
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oauthvault.logging import Redaction, redact

_LETTERS = string.ascii_letters + string.digits + "_-"
_bodies = st.text(_LETTERS, min_size=16, max_size=120)
tokens = st.one_of(
    st.builds("sk-ant-{}-{}".format, st.sampled_from(["oat01", "ort01", "api03"]), _bodies),
    st.builds("{}_{}".format, st.sampled_from(["ovs", "ovu"]), _bodies),
    st.builds("{} {}".format, st.sampled_from(["Bearer", "bearer", "BEARER"]), _bodies),
)
# What may stand before and after: anything.
around = st.text(max_size=40)


def _line(message: str, *arguments: object, error: BaseException | None = None) -> str:
    record = logging.LogRecord(
        "somebody", logging.ERROR, __file__, 1, message, arguments,
        None if error is None else (type(error), error, error.__traceback__),
    )  # fmt: skip
    return Redaction("%(levelname)s %(name)s [%(request_id)s] %(message)s").format(record)


def _secret_of(token: str) -> str:
    """What must not be seen of it: all after the words that every token begins with."""
    return token.split(" ")[-1].removeprefix("sk-ant-")[-16:]


@given(token=tokens, before=around, after=around)
def test_no_part_of_a_line_shows_a_token(token: str, before: str, after: str) -> None:
    secret, text = _secret_of(token), f"{before} {token} {after}"
    harmless = _line(text.replace("%", "%%").replace(token, "")) + before + after
    if secret in harmless:
        return
    for line in (
        _line(text.replace("%", "%%")),
        _line("%s", text),
        _line("%(what)s", {"what": text}),
        _line("%r", {"what": [text]}),
        redact(text),
    ):
        assert secret not in line


@given(token=tokens)
def test_no_traceback_shows_one(token: str) -> None:
    """Nor the exception that it was raised from, nor a note on it."""
    with pytest.raises(ValueError, match="wrong") as raised:
        _fail(token)
    error = raised.value
    assert _secret_of(token) in "".join(traceback.format_exception(error))
    assert _secret_of(token) not in _line("failed", error=error)


def _fail(token: str) -> None:
    try:
        raise KeyError(token)
    except KeyError as cause:
        error = ValueError(f"wrong: {token}")
        error.add_note(f"it was {token}")
        raise error from cause


@given(token=tokens)
def test_what_is_handed_on_beside_the_message_is_not_in_the_line(token: str) -> None:
    record = logging.makeLogRecord({"msg": "request", "access_token": token, "levelname": "INFO"})
    line = Redaction("%(message)s %(access_token)s").format(record)
    assert _secret_of(token) not in line


@given(password=st.builds("Pw9-{}".format, st.text(_LETTERS, min_size=8, max_size=60)))
def test_no_line_shows_the_password_of_an_address(password: str) -> None:
    for address in (
        f"postgresql://vault:{password}@db:5432/vault",
        f"redis://:{password}@cache:6379/0",
        f"https://user:{password}@proxy.example/",
    ):
        line = _line("cannot reach %s", address)
        assert password not in line
        assert line.endswith(address.partition("@")[2])
