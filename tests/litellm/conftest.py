"""The hook is a package of its own, not installed where the vault's tests run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.litellm.scripted_vault import ScriptedVault

HERE = Path(__file__).resolve().parent
HOOK = str(HERE.parents[1] / "integrations" / "litellm")
if HOOK not in sys.path:
    sys.path.insert(0, HOOK)


@pytest.fixture
def vault() -> Iterator[ScriptedVault]:
    with ScriptedVault() as vault:
        yield vault


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The proxies of a module are started once: its tests go to one process of the run."""
    for item in items:
        if item.path.parent == HERE and item.get_closest_marker("system") is not None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
