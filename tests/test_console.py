"""The console script itself: how it ends where nobody reads, or nobody answers."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from oauthvault.env import child_environment
from tests.processes import clean_environment, oauthvault

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault's data directory, prepared once."""
    folder = tmp_path_factory.mktemp("console")
    done = oauthvault("init", OAUTHVAULT_DATA_DIR=str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("command", ["credentials", "export_audit", "list_tenants"])
def test_a_reader_who_has_read_enough_ends_a_command_quietly(folder: Path, command: str) -> None:
    nobody, pipe = os.pipe()
    os.close(nobody)
    try:
        done = _run(folder, command, stdout=pipe)
    finally:
        os.close(pipe)
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_question_at_a_terminal_does_not_come_into_the_json(folder: Path) -> None:
    done = _run(folder, "create_tenant", "doomed", stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    for answer, status in (("no", 1), ("doomed", 0)):
        keyboard, terminal = pty.openpty()
        try:
            os.write(keyboard, f"{answer}\n".encode())
            done = _run(
                folder, "delete_tenant", "doomed", "--json", stdin=terminal, stdout=subprocess.PIPE
            )
        finally:
            os.close(keyboard)
            os.close(terminal)
        assert done.returncode == status, done.stderr
        assert "Nobody can undo it. Type doomed to go on: " in done.stderr
        if status:
            assert done.stdout == ""
        else:
            assert json.loads(done.stdout)["tenant"] == "doomed"


def test_a_password_that_nobody_can_give_is_a_sentence(folder: Path) -> None:
    done = _run(folder, "changepassword", "admin", stdout=subprocess.PIPE)
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("no password was given\n")
    assert done.returncode == 1


def test_a_password_is_asked_for_twice_at_a_terminal(folder: Path) -> None:
    for second, status in (("another one indeed", 1), ("a long one indeed", 0)):
        keyboard, terminal = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "oauthvault.cli", "create_operator", "olga"],
            env=clean_environment(OAUTHVAULT_DATA_DIR=str(folder)),
            stdin=terminal, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0,
        ) as asking:  # fmt: skip
            said, shown = b"", asking.stderr
            assert shown is not None
            # What is typed before the question is thrown away.
            for question, answer in ((b"Password: ", "a long one indeed"), (b"(again): ", second)):
                while not said.endswith(question):
                    said += (sign := shown.read(1))
                    assert sign, said
                os.write(keyboard, f"{answer}\n".encode())
            said += shown.read()
            assert asking.wait(timeout=240) == status, said
        os.close(keyboard)
        os.close(terminal)
        assert (b"are not the same" in said) is bool(status)


@pytest.mark.skipif("DATABASE_URL" in child_environment(), reason="SQLite's disk")
def test_a_disk_that_takes_nothing_is_called_by_its_name(folder: Path) -> None:
    """The shell's limit on the size of files stands for the disk: a process may write none."""
    done = _run(folder, "create_tenant", "acme", stdout=subprocess.PIPE, full=True)
    assert "Traceback" not in done.stderr
    assert f"the disk that holds {folder} is full or read-only" in done.stderr
    assert done.returncode == 1
    done = _run(folder, "doctor", stdout=subprocess.PIPE, full=True)
    assert f"the disk that holds {folder} is full or read-only" in done.stdout
    assert done.returncode == 1
    done = _run(folder, "create_tenant", "acme", stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [["--help"], [], ["status", "--help"], ["help", "up"]])
def test_help_in_a_folder_without_a_vault_leaves_it_as_it_was(
    tmp_path: Path, command: list[str]
) -> None:
    done = _run(tmp_path / "data", *command, stdout=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert not list(tmp_path.iterdir())


def _run(
    folder: Path,
    *arguments: str,
    stdout: int,
    stdin: int = subprocess.DEVNULL,
    full: bool = False,
    cwd: Path | None = None,
) -> "subprocess.CompletedProcess[str]":
    within = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"] if full else []
    return subprocess.run(
        [*within, sys.executable, "-m", "oauthvault.cli", *arguments],
        env=clean_environment(OAUTHVAULT_DATA_DIR=str(folder)),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        # Without a terminal to ask at.
        start_new_session=True,
        text=True,
        timeout=240,
        check=False,
    )
