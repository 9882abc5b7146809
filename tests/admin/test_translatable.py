"""Every text that a person reads in the dashboard is marked for translation."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# But for the page of the API's schema, which is in English; and one that has no text of its own,
# and tags that are put together.
_APART = {"docs.html", "header_title.html"}
TEMPLATES = sorted(path for path in (ROOT / "templates").rglob("*.html") if path.name not in _APART)
MODULES = sorted([*(ROOT / "tokens" / "admin").glob("*.py"), ROOT / "api" / "admin.py"])
# The name of the program, of a zone, and of what is typed.
_NAMES = {"oauthvault", "UTC"}
_MARKS = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy", "pgettext"}
_TAG = re.compile(r"{%.*?%}|{{.*?}}|{#.*?#}", re.S)
_MARKED = re.compile(
    r"{%\s*blocktrans(?:late)?\b.*?{%\s*endblocktrans(?:late)?\s*%}"
    r"|{%\s*comment\b.*?endcomment\s*%}"
    # Names of classes, and of an icon: nothing to be read.
    r"|{%\s*block bodyclass\s*%}.*?endblock\s*%}"
    r"|<span[^>]*material-symbols-outlined[^>]*>.*?</span>",
    re.S,
)
_WORD = re.compile(r"[^\W\d_]{2,}")
# Attributes that are read out or shown.
_READ = {"alt", "aria-label", "data-label", "placeholder", "title"}


class Texts(HTMLParser):
    """What is left of a template to be read, once everything of Django's is out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._typed = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._typed += tag in ("code", "pre", "script", "style")
        self.found += [value for name, value in attrs if name in _READ and value]

    def handle_endtag(self, tag: str) -> None:
        self._typed -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._typed:
            self.found.append(data)


def unmarked_in(template: str) -> list[str]:
    texts = Texts()
    # A tag inside an attribute may have quotation marks of its own.
    texts.feed(_TAG.sub(" ", _MARKED.sub(" ", template)))
    words = (" ".join(text.split()) for text in texts.found)
    return [text for text in words if _WORD.search(text) and text not in _NAMES]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_no_text_outside_of_its_marks(template: Path) -> None:
    assert unmarked_in(template.read_text()) == []


@pytest.mark.parametrize(
    "template",
    ["<p>Hello there</p>", '<a title="Go back">{{ x }}</a>', "{% if x %}so{% endif %}"],
)
def test_a_text_outside_of_the_marks_is_found(template: str) -> None:
    assert len(unmarked_in(template)) == 1


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_of_the_dashboard_says_nothing_unmarked(module: Path) -> None:
    assert list(sentences_in(ast.parse(module.read_text()))) == []


def test_a_sentence_that_is_not_marked_is_found() -> None:
    module = ast.parse('def f(x):\n    """Not this one."""\n    return "It is done", _("Well")')
    assert list(sentences_in(module)) == ["It is done"]


def sentences_in(node: ast.AST) -> Iterator[str]:
    """Strings with a blank between words that are neither marked nor a docstring, nor the text
    of an exception that nobody is shown."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.keyword) and child.arg == "why":
            continue  # For the audit trail, which is written in English.
        if isinstance(child, ast.Raise) or is_marked(child) or is_docstring(node, child):
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            text = re.sub(r"<[^>]*>", " ", child.value)
            is_typed = text.startswith("oauthvault ")
            if re.search(r"[^\W\d_]{2,} [^\W\d_]{2,}", text) and not is_typed:
                yield child.value
        yield from sentences_in(child)


def is_marked(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MARKS


def is_docstring(parent: ast.AST, node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef)
    )


@pytest.mark.system
def test_the_texts_can_be_gathered_for_translators(tmp_path: Path) -> None:
    """By `makemessages`, without a complaint; what is said on the pages is among them."""
    if shutil.which("xgettext") is None:
        pytest.skip("no xgettext; apt install gettext")
    for name in ("templates", "tokens", "api"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "static")
        )
    (tmp_path / "locale").mkdir()
    said = subprocess.run(
        [sys.executable, "-m", "django", "makemessages", "--locale", "de", "--no-location"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (said.returncode, said.stderr) == (0, "")
    gathered = (tmp_path / "locale/de/LC_MESSAGES/django.po").read_text()
    for text in ("Cut this person off?", "Skip to the content", "Revoke key"):
        assert f'msgid "{text}"' in gathered
