"""What the environment may say, and that a wrong value stops the start with one line.

Each test starts the real program in a process and a folder of its own.
"""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes import clean_environment, oauthvault

KEY = "dGVzdHMgb25seTogbmV2ZXIgYSByZWFsIGtleSEhISE="
OTHER_KEY = "b3RoZXIga2V5LCBuZXZlciBhIHJlYWwga2V5ISEhISE="
THIRD_KEY = "dGhpcmQga2V5LCB0aGlyZCBrZXksIHRoaXJkIGtleSE="

pytestmark = [pytest.mark.system]


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return oauthvault(*arguments, **({"OAUTHVAULT_DATA_DIR": str(folder / "data")} | variables))


def must_change_password(folder: Path) -> bool:
    """The first operator, at the first sign-in."""
    with closing(sqlite3.connect(folder / "data" / "oauthvault.sqlite3")) as database:
        rows = database.execute("SELECT must_change_password FROM tokens_account").fetchall()
    return rows == [(1,)]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted((folder / "data").iterdir())
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"OAUTHVAULT_PORT": "http"}, "OAUTHVAULT_PORT"),
        ({"OAUTHVAULT_PORT": "99999"}, "OAUTHVAULT_PORT"),
        ({"CLAUDE_OAUTH_AUTO_REFRESH": "maybe"}, "CLAUDE_OAUTH_AUTO_REFRESH"),
        ({"CLAUDE_OAUTH_REFRESH_THRESHOLD": "5 min"}, "CLAUDE_OAUTH_REFRESH_THRESHOLD"),
        ({"CLAUDE_OAUTH_RETRY_BACKOFF": "quick"}, "CLAUDE_OAUTH_RETRY_BACKOFF"),
        ({"CLAUDE_OAUTH_TOKEN_URL": "platform"}, "CLAUDE_OAUTH_TOKEN_URL"),
        ({"CLAUDE_TOKEN_ENCRYPTION_KEY": "canary"}, "CLAUDE_TOKEN_ENCRYPTION_KEY"),
        ({"CLAUDE_TOKEN_ENCRYPTION_KEY": "Y2FuYXJ5"}, "CLAUDE_TOKEN_ENCRYPTION_KEY"),
        ({"CLAUDE_TOKEN_ENCRYPTION_KEY_FILE": "/nowhere"}, "CLAUDE_TOKEN_ENCRYPTION_KEY_FILE"),
        ({"CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS": KEY}, "CLAUDE_TOKEN_ENCRYPTION_KEY beside it"),
        (
            {
                "CLAUDE_TOKEN_ENCRYPTION_KEY": KEY,
                "CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS": f"{OTHER_KEY},canary",
            },
            "CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS (key 2)",
        ),
        ({"CLAUDE_ACCESS_TOKEN": "canary"}, "CLAUDE_EXPIRES_AT"),
        ({"CLAUDE_EXPIRES_AT": "tomorrow", "CLAUDE_ACCESS_TOKEN": "c"}, "CLAUDE_EXPIRES_AT"),
        ({"CLAUDE_REFRESH_TOKEN": "canary"}, "CLAUDE_ACCESS_TOKEN"),
        ({"DATABASE_URL": "mysql://me:canary@host/db"}, "DATABASE_URL"),
        ({"REDIS_URL": "http://:canary@host"}, "REDIS_URL"),
        ({"OAUTHVAULT_SERVICE_KEY": "ovs_canary"}, "OAUTHVAULT_SERVICE_KEY"),
        ({"OAUTHVAULT_METRICS_TOKEN": "canary-of-15-ch"}, "OAUTHVAULT_METRICS_TOKEN"),
        ({"OAUTHVAULT_METRICS_TOKEN": "canary with blanks in it"}, "OAUTHVAULT_METRICS_TOKEN"),
        ({"OAUTHVAULT_DATA_DIR": "/dev/null/x"}, "OAUTHVAULT_DATA_DIR"),
        ({"OAUTHVAULT_TRUSTED_PROXIES": "10.0.0.1/8"}, "OAUTHVAULT_TRUSTED_PROXIES"),
        ({"OAUTHVAULT_TRUSTED_PROXIES": "nginx"}, "OAUTHVAULT_TRUSTED_PROXIES"),
        ({"OAUTHVAULT_CLIENT_ADDRESS_HEADER": "Via"}, "OAUTHVAULT_CLIENT_ADDRESS_HEADER"),
        ({"OAUTHVAULT_ADMIN_SECOND_FACTOR": "true"}, "optional, required, required_for_all"),
        ({"OAUTHVAULT_ADMIN_SESSION_IDLE": "1h"}, "OAUTHVAULT_ADMIN_SESSION_IDLE"),
        (
            {"OAUTHVAULT_ADMIN_SESSION_IDLE": "7200", "OAUTHVAULT_ADMIN_SESSION_LIFE": "3600"},
            "OAUTHVAULT_ADMIN_SESSION_IDLE",
        ),
    ],
)
def test_a_wrong_value_stops_the_start_with_one_line_that_names_it(
    tmp_path: Path, variables: dict[str, str], names: str
) -> None:
    done = run(tmp_path, "init", **variables)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert names in lines[0]
    assert "canary" not in done.stdout + done.stderr


def test_a_first_start_keeps_its_keys_private_and_a_second_uses_them_again(tmp_path: Path) -> None:
    first = run(tmp_path, "init")
    assert first.returncode == 0, first.stderr
    before = contents(tmp_path)
    assert {"encryption.key", "secret.key", "admin-password"} <= set(before)
    assert must_change_password(tmp_path)
    for path in (tmp_path / "data").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    assert run(tmp_path, "init").returncode == 0
    after = contents(tmp_path)
    for name in ("encryption.key", "secret.key", "admin-password"):
        assert after[name] == before[name]
    trail = run(tmp_path, "export_audit", "--tenant", "id:0").stdout
    assert [json.loads(line)["action"] for line in trail.splitlines()] == ["create_operator"]
    assert before["admin-password"].decode() not in trail
    findings = json.loads(run(tmp_path, "doctor", "--json").stdout)
    (files,) = (each for each in findings if each["what"] == "files")
    assert files["state"] == "note"
    assert "admin-password" in files["detail"]


def test_a_first_password_that_is_given_is_its_givers_to_change(tmp_path: Path) -> None:
    done = run(tmp_path, "init", OAUTHVAULT_ADMIN_PASSWORD="given by somebody")
    assert "with the password from OAUTHVAULT_ADMIN_PASSWORD" in done.stdout
    assert not must_change_password(tmp_path)
    assert "admin-password" not in contents(tmp_path)


def test_keys_that_are_given_by_a_file_are_spoken_of_by_its_variable(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    file.write_text(KEY)
    given = {"CLAUDE_TOKEN_ENCRYPTION_KEY_FILE": str(file)}
    assert run(tmp_path, "init", **given).returncode == 0
    refused = run(tmp_path, "rotate_keys", "--new-key", "--yes", **given)
    assert refused.returncode == 1
    assert "are given by CLAUDE_TOKEN_ENCRYPTION_KEY_FILE, and" in refused.stderr


def test_the_claude_variables_become_the_credential_of_user_default(tmp_path: Path) -> None:
    variables = {
        "CLAUDE_ACCESS_TOKEN": "sk-ant-oat01-one",
        "CLAUDE_REFRESH_TOKEN": "sk-ant-ort01-one",
        "CLAUDE_EXPIRES_AT": str(int(time.time()) + 3600),
    }
    assert "is stored" in run(tmp_path, "init", **variables).stdout
    assert "is stored" not in run(tmp_path, "init", **variables).stdout
    status = run(tmp_path, "status", "--tenant", "default", "--user", "default", "--json")
    assert '"authenticated": true' in status.stdout
    run(tmp_path, "revoke", "--tenant", "default", "--user", "default")
    again = run(tmp_path, "init", **variables)
    assert again.returncode == 0
    assert "refreshed or revoked since" in again.stdout
    status = run(tmp_path, "status", "--tenant", "default", "--user", "default", "--json")
    assert '"status": "revoked"' in status.stdout


def test_a_service_key_of_another_tenant_stops_the_start_with_one_line(tmp_path: Path) -> None:
    assert run(tmp_path, "init").returncode == 0
    assert run(tmp_path, "create_tenant", "acme").returncode == 0
    key = run(tmp_path, "create_key", "acme").stdout.strip()
    refused = run(tmp_path, "init", OAUTHVAULT_SERVICE_KEY=key)
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert "OAUTHVAULT_SERVICE_KEY" in refused.stderr
    assert key not in refused.stdout + refused.stderr


def test_a_key_that_does_not_open_the_database_stops_the_start_and_touches_nothing(
    tmp_path: Path,
) -> None:
    access = {"CLAUDE_ACCESS_TOKEN": "sk-ant-oat01-one", "CLAUDE_EXPIRES_AT": str(2_000_000_000)}
    assert run(tmp_path, "init", CLAUDE_TOKEN_ENCRYPTION_KEY=KEY, **access).returncode == 0
    before = contents(tmp_path)
    for wrong in ({"CLAUDE_TOKEN_ENCRYPTION_KEY": OTHER_KEY}, {}):
        refused = run(tmp_path, "init", **wrong)
        assert refused.returncode == 1
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
        assert "encryption" in refused.stderr.lower()
        assert contents(tmp_path) == before
    both = {
        "CLAUDE_TOKEN_ENCRYPTION_KEY": OTHER_KEY,
        "CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS": KEY,
    }
    assert run(tmp_path, "init", **both).returncode == 0


def test_a_secret_can_be_given_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    assert run(tmp_path, "init", CLAUDE_TOKEN_ENCRYPTION_KEY_FILE=str(file)).returncode == 0
    assert run(tmp_path, "doctor", CLAUDE_TOKEN_ENCRYPTION_KEY=KEY).returncode == 0
    twice = run(
        tmp_path,
        "doctor",
        CLAUDE_TOKEN_ENCRYPTION_KEY=KEY,
        CLAUDE_TOKEN_ENCRYPTION_KEY_FILE=str(file),
    )
    assert twice.returncode == 1
    assert "both set" in twice.stderr
    file.write_text(f"{THIRD_KEY}\n{KEY}\n")
    fallbacks = run(
        tmp_path,
        "rotate_keys",
        CLAUDE_TOKEN_ENCRYPTION_KEY=OTHER_KEY,
        CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS_FILE=str(file),
    )
    assert fallbacks.returncode == 0, fallbacks.stderr
    assert run(tmp_path, "doctor", CLAUDE_TOKEN_ENCRYPTION_KEY=OTHER_KEY).returncode == 0


def test_a_secret_is_gone_from_the_environment_once_read_and_there_for_our_children(
    tmp_path: Path,
) -> None:
    program = (
        "import os; from oauthvault import env, settings\n"
        "assert 'OAUTHVAULT_SERVICE_KEY' not in os.environ\n"
        "assert env.child_environment()['OAUTHVAULT_SERVICE_KEY'] == 'ovs_' + 'x' * 43\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(
            OAUTHVAULT_DATA_DIR=str(tmp_path / "data"), OAUTHVAULT_SERVICE_KEY="ovs_" + "x" * 43
        ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", ["init", "create_key", "import_credentials", "rotate_keys", "status", "up"]
)
def test_every_command_helps(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, command, "--help")
    assert done.returncode == 0
    assert "usage" in done.stdout


def test_a_wrong_call_ends_with_2_and_a_refusal_with_1(tmp_path: Path) -> None:
    run(tmp_path, "init")
    assert run(tmp_path, "status").returncode == 2
    assert run(tmp_path, "create_key", "default", "--expires-in", "soon").returncode == 2
    refused = run(tmp_path, "status", "--tenant", "nobody", "--user", "x")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


def test_three_first_starts_at_once_make_one_vault(tmp_path: Path) -> None:
    starts = [
        subprocess.Popen(
            [sys.executable, "-m", "oauthvault.cli", "init"],
            env=clean_environment(OAUTHVAULT_DATA_DIR=str(tmp_path / "data")),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [start.communicate(timeout=240) for start in starts]
    assert [start.returncode for start in starts] == [0, 0, 0], said
    assert sum("First operator" in out for out, _ in said) == 1
    assert run(tmp_path, "doctor").returncode == 0


def test_a_command_that_finds_no_vault_says_so_and_makes_none(tmp_path: Path) -> None:
    done = run(tmp_path, "credentials")
    assert done.returncode == 1
    assert "there is no vault" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_misspelt_variable_is_named_with_the_nearest_right_one(tmp_path: Path) -> None:
    done = run(tmp_path, "init", OAUTHVAULT_PROT="9000")
    assert (
        "OAUTHVAULT_PROT is no variable of the vault; did you mean OAUTHVAULT_PORT?" in done.stdout
    )


def test_a_redis_that_does_not_answer_stops_the_start(tmp_path: Path) -> None:
    done = run(tmp_path, "init", REDIS_URL="redis://:canary@127.0.0.1:1/0")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "REDIS_URL" in done.stderr
    assert "canary" not in done.stdout + done.stderr
