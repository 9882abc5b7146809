"""A secret shows itself to nobody but who asks for it by name."""

import copy
import json
import logging
import pickle

import pytest

from oauthvault.logging import redact
from tokens.secret import AccessToken, RefreshToken, Secret


def test_no_way_of_printing_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    token = AccessToken("canary-value")
    caplog.set_level(logging.DEBUG)
    logging.getLogger("x").warning("%s %r %s", token, token, [token])
    shown = f"{token} {token!r} {token:>40} {[token]} {vars}" + caplog.text
    assert "canary-value" not in shown
    assert token.reveal() == "canary-value"


@pytest.mark.parametrize("dump", [pickle.dumps, json.dumps, hash])
def test_it_is_not_serialised(dump) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError):
        dump(RefreshToken("canary-value"))


def test_equal_texts_are_equal_and_copies_are_the_same() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    token = Secret("a")
    assert copy.deepcopy(token) is token


@pytest.mark.parametrize(
    "text",
    [
        "token sk-ant-oat01-AbCdEf0123456789",
        "Authorization: Bearer abcdefghijklmnop.qrstuv",
        "key ovs_0123456789abcdef was used",
    ],
)
def test_the_last_net_takes_out_what_looks_like_a_token(text: str) -> None:
    assert "[redacted]" in redact(text)
    assert "0123456789" not in redact(text)
    assert "abcdefghijklmnop" not in redact(text)
