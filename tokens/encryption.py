"""Sealing: who can open what, and under which key.

    KEK (environment or key file)  wraps  one data key (DEK) per tenant
    DEK  --HKDF-Expand(tenant | credential | field | version)-->  the key of one field

AES-256-CBC with HMAC-SHA256 by django-cryptography's FernetBytes. A sealed value is the
text ``v1.<id of the key>.<base64url>``; everything that says where it belongs goes into
the derivation of its key, so that a value moved to another row, column or tenant does not
open. What does not open is an EncryptionError, never a value.

This module knows keys and bytes; it knows no model and reads no setting.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Sequence
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from django.core.signing import BadSignature
from django_cryptography.core.signing import FernetSigner
from django_cryptography.utils.crypto import FernetBytes, InvalidToken

from tokens.errors import EncryptionError

KEY_BYTES = 32
_VERSION = "v1"
_SHAPE = re.compile(r"v1\.([A-Za-z0-9]{1,32})\.([A-Za-z0-9_-]+)")


class Key:
    """32 bytes that open things, and a name that says nothing about them."""

    __slots__ = ("_material", "key_id")

    def __init__(self, material: bytes, *, key_id: str) -> None:
        # Two traps of the primitive underneath: a falsy key falls back to Django's
        # SECRET_KEY, and a 16-byte key gives AES-128.
        if not isinstance(material, bytes) or len(material) != KEY_BYTES:
            raise EncryptionError(f"a key must be exactly {KEY_BYTES} bytes")
        self._material = material
        self.key_id = key_id

    def __repr__(self) -> str:
        return f"<Key {self.key_id}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")

    def seal(self, plaintext: bytes, *, context: Sequence[str]) -> str:
        """The sealed text of ``plaintext``, which opens under this key and context only."""
        token = self._cipher(context).encrypt(plaintext)
        body = base64.urlsafe_b64encode(token).decode("ascii").rstrip("=")
        return f"{_VERSION}.{self.key_id}.{body}"

    def unseal(self, sealed: str, *, context: Sequence[str]) -> bytes:
        """What was sealed. Raises EncryptionError for anything that is not exactly that."""
        key_id, token = _parse(sealed)
        if key_id != self.key_id:
            raise EncryptionError(f"sealed under key {key_id}, not {self.key_id}")
        try:
            plaintext = self._cipher(context).decrypt(token)
        except (BadSignature, InvalidToken):
            raise EncryptionError("a sealed value does not open in this place") from None
        return bytes(plaintext)

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose (a fingerprint key, say), independent of every other."""
        return _expand(self._material, ["derive", purpose], KEY_BYTES)

    def _cipher(self, context: Sequence[str]) -> FernetBytes:
        both = _expand(self._material, [_VERSION, self.key_id, *context], 2 * KEY_BYTES)
        encryption, signing = both[:KEY_BYTES], both[KEY_BYTES:]
        if len(encryption) != KEY_BYTES or len(signing) != KEY_BYTES:
            raise EncryptionError("a derived key has the wrong length")
        return FernetBytes(key=encryption, signer=FernetSigner(signing))


class Keyring:
    """The key-encryption keys of the deployment: the first seals, each of them opens."""

    def __init__(self, materials: Sequence[bytes]) -> None:
        if not materials:
            raise EncryptionError("there is no key-encryption key")
        keys = [Key(material, key_id=kek_id(material)) for material in materials]
        self._primary = keys[0]
        self._by_id = {key.key_id: key for key in keys}

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(self._by_id)}>"

    @property
    def primary_id(self) -> str:
        return self._primary.key_id

    @property
    def ids(self) -> list[str]:
        """The names of all keys of this ring, the primary first."""
        return list(self._by_id)

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._by_id

    def new_key(self, *, key_id: str, context: Sequence[str]) -> tuple[Key, str]:
        """A fresh random key, and its wrapped text."""
        material = os.urandom(KEY_BYTES)
        return Key(material, key_id=key_id), self._primary.seal(
            material, context=_wrapping(key_id, context)
        )

    def unwrap(self, wrapped: str, *, key_id: str, context: Sequence[str]) -> Key:
        """The key inside ``wrapped``. EncryptionError if no key of this ring opens it."""
        kek = self._by_id.get(sealing_key_id(wrapped))
        if kek is None:
            raise EncryptionError(
                f"wrapped under key {sealing_key_id(wrapped)}, which is not in the keyring"
            )
        material = kek.unseal(wrapped, context=_wrapping(key_id, context))
        return Key(material, key_id=key_id)

    def rewrap(self, wrapped: str, *, key_id: str, context: Sequence[str]) -> str:
        """The same key wrapped under the primary KEK."""
        kek = self._by_id.get(sealing_key_id(wrapped))
        if kek is None:
            raise EncryptionError("wrapped under a key that is not in the keyring")
        material = kek.unseal(wrapped, context=_wrapping(key_id, context))
        return self._primary.seal(material, context=_wrapping(key_id, context))


def kek_id(material: bytes) -> str:
    """A short public name of a KEK, the same in every process that holds it."""
    return hashlib.sha256(_expand(material, ["kek id"], KEY_BYTES)).hexdigest()[:12]


def sealing_key_id(sealed: str) -> str:
    """Which key a sealed text names. EncryptionError if it is no sealed text."""
    return _parse(sealed)[0]


def parse_kek(text: str) -> bytes:
    """32 bytes from base64, standard or URL-safe, padded or not. ValueError otherwise."""
    compact = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        material = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64") from None
    if len(material) != KEY_BYTES:
        raise ValueError(f"it holds {len(material)} bytes")
    return material


def generate_kek() -> str:
    """A new KEK as ``openssl rand -base64 32`` would print it."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode("ascii")


def _wrapping(key_id: str, context: Sequence[str]) -> list[str]:
    return ["wrap", key_id, *context]


def _expand(material: bytes, context: Sequence[str], length: int) -> bytes:
    # Each part with its length before it: ("a", "bc") and ("ab", "c") are two contexts.
    info = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (text.encode("utf-8") for text in ("oauthvault", *context))
    )
    return HKDFExpand(algorithm=hashes.SHA256(), length=length, info=info).derive(material)


def _parse(sealed: str) -> tuple[str, bytes]:
    match = _SHAPE.fullmatch(sealed)
    if match is None:
        raise EncryptionError("not a sealed value of a version that this vault knows")
    key_id, body = match.groups()
    try:
        token = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (binascii.Error, ValueError):
        raise EncryptionError("a sealed value is damaged") from None
    # The last character of base64 carries bits that decoding drops. Only the one text
    # that sealing writes is accepted, so that no changed bit goes unnoticed.
    if base64.urlsafe_b64encode(token).decode("ascii").rstrip("=") != body:
        raise EncryptionError("a sealed value is damaged")
    return key_id, token
