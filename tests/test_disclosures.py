"""Every place in the code where a secret's text comes out is on a list, and none is printed."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source import tree_of

REPOSITORY = Path(__file__).resolve().parent.parent

# Who takes the text out of a secret, and what for.
DISCLOSURES = {
    "tokens/sealing.py": "to seal a token, and to know it again by its fingerprint",
    "tokens/importing.py": "to find what is imported in the ledger",
    "tokens/admin/importing.py": "the key of an uploaded file, to the browser alone",
    "tokens/import_drafts.py": "to seal an uploaded file",
    "tokens/credential_list.py": "to read the logins in a file",
    "tokens/vault.py": "to find whose token it is, by its fingerprint",
    "tokens/keyring.py": "to make keys of the KEKs' text; to seal an authenticator's secret",
    "tokens/second_factor.py": "to verify a code, and to say what an authenticator needs",
    "tokens/admin/account.py": "a new authenticator and recovery codes, to their operator, once",
    "tokens/oauth_client.py": "to present a token to the authorization server",
    "tokens/outside.py": "to connect to Redis",
    "api/answers.py": "the hand-out itself",
    "api/keys.py": "to hash a key",
    "api/admin.py": "a new key, shown once",
    "api/management/key.py": "a new key, as JSON for a script",
    "api/management/commands/create_key.py": "a new key, printed once",
    "api/management/commands/rotate_key.py": "a new key, printed once",
    "api/views/service.py": "to compare the token for /metrics",
    "oauthvault/settings.py": "to check the shape of a variable; the addresses of Redis",
    "oauthvault/management/commands/init.py": "what the environment brings on the first start",
    "integrations/litellm/oauthvault_litellm/client.py": "the hook's own key, to the vault",
    "integrations/litellm/oauthvault_litellm/direct.py": "to take a token out of the request",
    "integrations/litellm/oauthvault_litellm/doctor/vault.py": "the same key, to the same vault",
    "integrations/litellm/oauthvault_litellm/outgoing.py": "the token, to Anthropic",
    "integrations/litellm/oauthvault_litellm/presented.py": "to know a token again by its digest",
    "integrations/litellm/oauthvault_litellm/settings.py": "to check the shape of a key",
}
_DEFINITIONS = {"tokens/secret.py", "integrations/litellm/oauthvault_litellm/secret.py"}
_LOGS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Everything that is installed somewhere, by its place in the repository."""
    for package in ("tokens", "api", "oauthvault", "integrations/litellm/oauthvault_litellm"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            yield path.relative_to(REPOSITORY).as_posix(), tree_of(path.read_text())


def reveals(node: ast.AST) -> bool:
    """Whether the text of a secret comes out somewhere inside this."""
    return any(
        isinstance(inner, ast.Attribute) and inner.attr == "reveal" for inner in ast.walk(node)
    )


def says(node: ast.AST) -> bool:
    """Whether this makes a sentence, a log line or an exception of what is inside it."""
    if isinstance(node, ast.JoinedStr):
        # The one form in which a secret goes out, in the header of a request (RFC 6750).
        first = node.values[0]
        return not (isinstance(first, ast.Constant) and first.value == "Bearer ")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return isinstance(node.left, ast.Constant | ast.JoinedStr)
    if isinstance(node, ast.Raise):
        return True
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        return name in _LOGS | {"format", "message_user"} or called in {"print", "repr", "str"}
    return False


def test_a_secret_comes_out_in_these_modules_only() -> None:
    found = {name for name, tree in modules() if reveals(tree)} - _DEFINITIONS
    assert found == set(DISCLOSURES)


def test_no_sentence_log_line_or_exception_is_made_of_a_secret() -> None:
    found = [
        f"{name}:{node.lineno}"  # type: ignore[attr-defined]
        for name, tree in modules()
        for node in ast.walk(tree)
        if says(node) and reveals(node)
    ]
    assert found == []


def test_no_secret_is_compared_letter_by_letter() -> None:
    """`==` takes the longer the more letters are right; `hmac.compare_digest` does not. An API
    key is not compared at all: it is looked up by its keyed hash."""
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and reveals(node)
    ]
    assert found == []


def test_nobody_reaches_into_a_secret_past_its_one_door() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        if name not in _DEFINITIONS
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"_text", "_Secret__value"}
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ['logger.info("%s", token.reveal())', 'raise ValueError(f"bad {token.reveal()}")',
     '"%s" % token.reveal()', 'f"token {token.reveal()}"', 'print(token.reveal())',
     '"{}".format(token.reveal())'],
)  # fmt: skip
def test_the_search_would_find_one(line: str) -> None:
    assert any(says(node) and reveals(node) for node in ast.walk(tree_of(line)))
