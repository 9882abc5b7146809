"""The hook is a package of its own: built from its folder, and with nothing of the vault in it."""

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.litellm.processes import ROOT
from tests.source import tree_of

# Of the first test, for which the wheel is built.
pytestmark = pytest.mark.timeout(900)

PACKAGE = ROOT / "integrations" / "litellm"
# What can be imported, and tested, without LiteLLM.
WITHOUT_LITELLM = (
    "block_settings", "breaker", "cache", "client", "demands", "doctor", "identity", "metrics",
    "outgoing", "presented", "refusals", "secret", "settings", "surroundings", "tokens", "versions",
)  # fmt: skip
# The vault's own, and what it is made of.
NOT_IN_HERE = {"oauthvault", "tokens", "api", "django", "rest_framework", "celery"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built as pip would, without a package index."""
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check",
         "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(PACKAGE)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("oauthvault_litellm-*-py3-none-any.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_has_every_module_and_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    package = PACKAGE / "oauthvault_litellm"
    files = {
        file.relative_to(PACKAGE).as_posix()
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    packed = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert packed == files
    assert "oauthvault_litellm/py.typed" in packed


def test_the_wheel_wants_httpx_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = wheel.read(name).decode().splitlines()
    assert [line for line in lines if line.startswith("Requires-Dist")] == [
        "Requires-Dist: httpx>=0.27"
    ]


def test_nothing_of_the_vault_is_imported(wheel: zipfile.ZipFile) -> None:
    modules = [name for name in wheel.namelist() if name.endswith(".py")]
    assert modules
    for name in modules:
        assert not set(_imported(wheel.read(name).decode())) & NOT_IN_HERE, name


def _imported(source: str) -> Iterator[str]:
    """The top-level packages that a module imports, wherever in it."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_what_needs_no_litellm_imports_beside_httpx_alone(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    (tmp_path / "only").mkdir()
    for place in _places_of("httpx", seen=set()):
        (tmp_path / "only" / place.name).symlink_to(place)
    wheel.extractall(tmp_path / "only")
    names = ", ".join(f"oauthvault_litellm.{name}" for name in WITHOUT_LITELLM)
    program = (
        f"import sys; sys.path.append({str(tmp_path / 'only')!r})\n"
        f"import {names}, oauthvault_litellm.__main__\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        # Without site-packages.
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & (NOT_IN_HERE | {"litellm", "fastapi", "yaml"})


def _places_of(distribution: str, *, seen: set[str]) -> Iterator[Path]:
    """Where a distribution's packages lie, and those of what it needs."""
    seen.add(distribution)
    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return  # needed on another Python or another system only
    tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "")}
    for top in tops:
        if not top.endswith(".dist-info") and top != "__pycache__":
            yield Path(str(found.locate_file(top)))
    for needed in found.requires or ():
        name = needed.partition(";")[0].split("[")[0]
        name = name.split(">")[0].split("=")[0].split("<")[0].split("!")[0].split("~")[0].strip()
        if "extra ==" not in needed and name not in seen:
            yield from _places_of(name, seen=seen)
