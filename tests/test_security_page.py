"""docs/security.md says only what a test shows: each test that it names is there."""

import ast
import re
from pathlib import Path

from tests.source import tree_of

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "security.md"


def _tests_there_are() -> set[str]:
    return {
        node.name
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        for node in ast.walk(tree_of(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", PAGE.read_text()))
    assert len(named) > 50
    assert named - _tests_there_are() == set()


def test_every_line_about_an_attacker_names_its_test() -> None:
    table = PAGE.read_text().partition("## Who attacks")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        assert "`test_" in row.split("|")[-2], row
