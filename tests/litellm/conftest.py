"""The hook is a package of its own, not installed where the vault's tests run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.litellm.scripted_vault import ScriptedVault

HOOK = str(Path(__file__).resolve().parents[2] / "integrations" / "litellm")
if HOOK not in sys.path:
    sys.path.insert(0, HOOK)


@pytest.fixture
def vault() -> Iterator[ScriptedVault]:
    with ScriptedVault() as vault:
        yield vault
