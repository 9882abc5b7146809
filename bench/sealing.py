"""What it costs to open a token: ours, and the fastest cipher that is at hand."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.ratio import Figure

TOKEN = b"sk-ant-oat01-" + b"x" * 95
CONTEXT = ["tenant 1", "credential 1", "access_token"]
_BATCH = 200


def measure(folder: Path, compare: Callable[..., Figure]) -> Iterator[Figure]:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")
    os.environ["OAUTHVAULT_DATA_DIR"] = str(folder / "sealing")
    from tokens.encryption import Key

    key = Key(os.urandom(32), key_id="bench")
    sealed = key.seal(TOKEN, context=CONTEXT)
    plain, nonce = AESGCM(os.urandom(32)), os.urandom(12)
    boxed = plain.encrypt(nonce, TOKEN, b"context")

    def ours() -> int:
        for _ in range(_BATCH):
            key.unseal(sealed, context=CONTEXT)
        return _BATCH

    def bare() -> int:
        for _ in range(_BATCH):
            plain.decrypt(nonce, boxed, b"context")
        return _BATCH

    yield compare("Opening a token", ("derive, verify, decrypt", ours), ("bare AES-GCM", bare))
