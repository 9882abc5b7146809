"""Whatever comes in, what reads it answers with a value or with the refusal that it documents,
and repeats no secret."""

import string
from dataclasses import replace
from typing import Any

import pytest
from django.http import HttpRequest
from httpx import Headers
from hypothesis import given, settings
from hypothesis import strategies as st

from api.callers import USER_HEADER, named_user
from api.errors import InvalidRequest
from api.keys import BadKeyRequest, Scope, _checked_networks, _checked_scopes, find_key
from tests.vault.test_log_net import tokens as token_shaped
from tokens.credential_file import _NAMES, parse_credentials
from tokens.credential_list import Row, UnreadableFile, rows, text_of
from tokens.errors import InvalidCredentials, VaultError
from tokens.import_list import ImportList
from tokens.models import Tenant
from tokens.networks import address_of, lies_in
from tokens.oauth_client import _retry_after
from tokens.secret import Secret

NOW = 1_790_000_000
SECRET = "sk-ant-ort01-CANARY-0123456789"
_PART = "CANARY"

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), token_shaped,
    st.sampled_from([SECRET, f" {SECRET}", f"{SECRET}\n", f"{SECRET}é", [SECRET], {SECRET: SECRET},
                     "", " ", "9" * 400, -1, 0, 10**30, NOW + 60, (NOW + 60) * 1000]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=12) | st.just(SECRET), inner, max_size=4)
    ),
    max_leaves=8,
)
names = st.sampled_from([*_NAMES, *_NAMES.values(), "claudeAiOauth", SECRET]) | st.text(max_size=12)
credentials = st.dictionaries(names, values, max_size=8)
files = st.one_of(values, credentials, st.builds(lambda c: {"claudeAiOauth": c}, credentials))


@given(content=files)
@settings(max_examples=400)
def test_a_credentials_file_is_read_or_refused_by_field(content: Any) -> None:
    try:
        read = parse_credentials(content, now=NOW)
    except InvalidCredentials as refusal:
        assert refusal.fields
        assert _PART not in refusal.detail
        assert _PART not in str(refusal.fields)
    else:
        assert _PART not in repr(read)
        assert NOW - 10**10 < read.expires_at < NOW + 11 * 366 * 86_400
        assert read.login_expires_at is None or read.login_expires_at > NOW


@given(text=st.text(max_size=300) | st.from_regex(r"\Aov[su]_[A-Za-z0-9_-]{0,42}\Z"))
def test_a_text_that_is_no_key_finds_none_and_asks_no_database(text: str) -> None:
    """pytest-django refuses the query, if there is one."""
    if not (text[:4] in ("ovs_", "ovu_") and len(text) >= 47):
        assert find_key(text) is None


@given(
    header=st.text(st.characters(max_codepoint=255), max_size=60)
    | st.text("%0123456789abcdefAF \x00é", max_size=60)
)
def test_a_user_header_is_a_text_or_refused(header: str) -> None:
    request = HttpRequest()
    request.META["HTTP_X_OAUTHVAULT_USER"] = header
    try:
        user = named_user(request)
    except InvalidRequest as refusal:
        assert list(refusal.fields) == [USER_HEADER]
        assert len(header) < 4 or header not in refusal.detail
    else:
        assert user is not None
        user.encode("utf-8")


@given(
    text=st.text(string.printable, max_size=40) | st.integers().map(str) | st.datetimes().map(str)
)
def test_a_retry_after_is_a_number_of_seconds_within_bounds(text: str) -> None:
    headers = Headers([(b"retry-after", text.encode()), (b"date", text.encode())])
    assert 1.0 <= _retry_after(headers) <= 86_400.0


@given(
    networks=st.lists(st.text(max_size=30) | token_shaped | st.ip_addresses().map(str), max_size=4)
)
def test_networks_are_networks_or_refused(networks: list[str]) -> None:
    try:
        checked = _checked_networks(networks)
    except BadKeyRequest as refusal:
        assert "is no network" in refusal.detail
        assert not any(len(text) > 30 and text in refusal.detail for text in networks)
    else:
        assert lies_in(address_of("192.0.2.7"), checked) in (True, False)


@given(scopes=st.lists(st.text(max_size=20) | token_shaped | st.sampled_from([*Scope]), max_size=4))
def test_scopes_are_scopes_or_refused(scopes: list[str]) -> None:
    try:
        assert set(_checked_scopes(scopes)) <= {scope.value for scope in Scope}
    except BadKeyRequest as refusal:
        assert not any(len(text) > 20 and text in refusal.detail for text in scopes)


_lines = st.one_of(
    st.text(max_size=60),
    st.builds(
        "{{\"user_id\": \"{}\", \"accessToken\": \"{}\", \"expiresAt\": {}}}".format,
        st.text(string.ascii_letters, max_size=9) | st.just(SECRET), st.just(SECRET),
        st.integers(),
    ),
    st.builds("{},{},{}".format, st.text(max_size=9) | st.just(SECRET), st.just(SECRET),
              st.integers()),
)  # fmt: skip
_contents = st.builds(
    lambda first, lines, end: end.join([*first, *lines]),
    st.sampled_from([[], ["user_id,accessToken,expiresAt"], ["user_id"], ['{"user_id": "x"}'],
                     [SECRET], [f"{SECRET},user_id"]]),
    st.lists(_lines, max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip


@given(content=_contents, user=st.none() | st.just("alice"), default=st.booleans())
@settings(max_examples=300)
def test_a_file_of_many_is_read_line_by_line_or_refused(
    content: str, user: str | None, default: bool
) -> None:
    """What a line is refused for names no token of it; nothing is asked, for none is whole."""
    tenant = Tenant(pk=1, slug="acme")
    many = ImportList(tenant=tenant, tenants={"acme": tenant})
    try:
        found = list(rows(Secret(content), user=user, has_default_user=default))
    except UnreadableFile as refusal:
        assert _PART not in refusal.detail
        return
    assert all(_PART not in repr(replace(row, user_id="", tenant=None)) for row in found)
    for verdict in many.judge(map(_unwhole, found), now=NOW):
        assert verdict.line >= 1
        assert verdict.effect is None
        assert _PART not in str(verdict)


def _unwhole(row: Row) -> Row:
    """The same, with a field too many."""
    if isinstance(row.offered, VaultError) or not isinstance(row.offered, dict):
        return row
    return replace(row, offered=row.offered | {"too_much": SECRET})


@given(data=st.binary(max_size=200) | st.text(max_size=60).map(lambda text: text.encode("utf-16")))
def test_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        assert "\0" not in text_of(data).reveal()
    except UnreadableFile as refusal:
        assert refusal.detail.startswith("the file is")


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"PK\x03\x04rest", "an Excel sheet"), ("user_id,accessToken".encode("utf-16"), "UTF-16"),
     ("{}".encode("utf-16-le"), "UTF-16"), (b"\xd0\xcf\x11\xe0", "an old Excel"),
     (b"\x1f\x8b\x08", "compressed"), (b"%PDF-1.7", "PDF"), (b"caf\xe9", "not UTF-8"),
     (b"a\0b", "null characters")],
)  # fmt: skip
def test_what_is_no_text_is_called_by_its_kind(data: bytes, kind: str) -> None:
    with pytest.raises(UnreadableFile, match=kind):
        text_of(data)


def test_the_mark_at_the_beginning_of_a_text_is_no_part_of_it() -> None:
    assert text_of("\ufeff{}".encode()).reveal() == "{}"
