"""What is sealed opens in its own place under its own key, and nowhere else."""

import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokens.encryption import Key, Keyring, kek_id, parse_kek, sealing_key_id
from tokens.errors import EncryptionError

material = st.binary(min_size=32, max_size=32)
part = st.text(min_size=1, max_size=12)
context = st.lists(part, min_size=1, max_size=4)


@given(key=material, plaintext=st.binary(max_size=400), where=context)
def test_what_is_sealed_opens_in_its_place(key: bytes, plaintext: bytes, where: list[str]) -> None:
    dek = Key(key, key_id="k1")
    assert dek.unseal(dek.seal(plaintext, context=where), context=where) == plaintext


@given(key=material, plaintext=st.binary(max_size=60), where=context, data=st.data())
def test_any_flipped_bit_of_a_sealed_text_keeps_it_shut(
    key: bytes, plaintext: bytes, where: list[str], data: st.DataObject
) -> None:
    dek = Key(key, key_id="k1")
    sealed = dek.seal(plaintext, context=where).encode("ascii")
    position = data.draw(st.integers(0, len(sealed) - 1))
    bit = data.draw(st.integers(0, 7))
    broken = bytearray(sealed)
    broken[position] ^= 1 << bit
    with pytest.raises(EncryptionError):
        dek.unseal(broken.decode("latin-1"), context=where)


@given(key=material, plaintext=st.binary(max_size=60), here=context, there=context)
def test_a_sealed_text_does_not_open_in_another_place(
    key: bytes, plaintext: bytes, here: list[str], there: list[str]
) -> None:
    assume(here != there)
    dek = Key(key, key_id="k1")
    with pytest.raises(EncryptionError):
        dek.unseal(dek.seal(plaintext, context=here), context=there)


@given(key=material, other=material, where=context)
def test_another_key_of_the_same_name_opens_nothing(
    key: bytes, other: bytes, where: list[str]
) -> None:
    assume(key != other)
    sealed = Key(key, key_id="k1").seal(b"token", context=where)
    with pytest.raises(EncryptionError):
        Key(other, key_id="k1").unseal(sealed, context=where)


@given(cut=st.integers(0, 60))
def test_a_truncated_text_is_an_error_not_a_shorter_value(cut: int) -> None:
    dek = Key(b"k" * 32, key_id="k1")
    sealed = dek.seal(b"some token", context=["here"])
    assume(cut < len(sealed))
    with pytest.raises(EncryptionError):
        dek.unseal(sealed[:cut], context=["here"])


@given(junk=st.text(max_size=80))
def test_what_was_never_sealed_is_refused(junk: str) -> None:
    with pytest.raises(EncryptionError):
        Key(b"k" * 32, key_id="k1").unseal(junk, context=["here"])


@pytest.mark.parametrize("wrong", [b"", b"k" * 16, b"k" * 31, b"k" * 33, b"k" * 64])
def test_a_key_of_any_other_length_is_refused(wrong: bytes) -> None:
    """A falsy key would fall back to Django's SECRET_KEY, 16 bytes would be AES-128."""
    with pytest.raises(EncryptionError):
        Key(wrong, key_id="k1")


def test_a_data_key_opens_under_every_key_of_the_ring_and_wraps_under_the_first() -> None:
    old, new = b"o" * 32, b"n" * 32
    before = Keyring([old])
    dek, wrapped = before.new_key(key_id="d1", context=["tenant 1"])
    sealed = dek.seal(b"token", context=["here"])
    during = Keyring([new, old])
    rewrapped = during.rewrap(wrapped, key_id="d1", context=["tenant 1"])
    assert sealing_key_id(wrapped) == kek_id(old)
    assert sealing_key_id(rewrapped) == kek_id(new)
    after = Keyring([new])
    for ring, text in ((during, wrapped), (during, rewrapped), (after, rewrapped)):
        opened = ring.unwrap(text, key_id="d1", context=["tenant 1"])
        assert opened.unseal(sealed, context=["here"]) == b"token"
    with pytest.raises(EncryptionError):
        after.unwrap(wrapped, key_id="d1", context=["tenant 1"])


def test_a_data_key_of_one_tenant_does_not_unwrap_for_another() -> None:
    ring = Keyring([b"k" * 32])
    _, wrapped = ring.new_key(key_id="d1", context=["tenant 1"])
    with pytest.raises(EncryptionError):
        ring.unwrap(wrapped, key_id="d1", context=["tenant 2"])
    with pytest.raises(EncryptionError):
        ring.unwrap(wrapped, key_id="d2", context=["tenant 1"])


@given(key=material)
def test_a_kek_is_read_as_people_write_it(key: bytes) -> None:
    import base64

    standard = base64.b64encode(key).decode()
    safe = base64.urlsafe_b64encode(key).decode()
    for text in (standard, safe, standard.rstrip("="), safe.rstrip("="), f" {standard}\n"):
        assert parse_kek(text) == key


@pytest.mark.parametrize("text", ["", "secret", "c2hvcnQ=", "!" * 44, "A" * 44 + "AAAA"])
def test_a_kek_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it"):
        parse_kek(text)


def test_keys_show_themselves_to_nobody() -> None:
    key = Key(b"k" * 32, key_id="k1")
    assert "kkkk" not in repr(key) + repr(Keyring([b"k" * 32]))
    with pytest.raises(TypeError):
        pickle.dumps(key)
