"""What is started, on which ports, with which environment; all of it in one folder of its own.

One LiteLLM proxy per team: the hook holds one service key, and a service key is one tenant's.
"""

import json
import os
import secrets
import select
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from demo.cast import CAST, LIFETIME, TENANTS, Person
from demo.narrator import Narrator
from demo.ports import HOST, Ports
from oauthvault.datadir import write_once
from oauthvault.supervisor import Program
from oauthvault.tether import Tethered
from tests.simulator import RemoteSimulator

ROOT = Path(__file__).resolve().parents[1]
LITELLM = ROOT / ".venv-litellm" / "bin" / "litellm"
_CONFIG = Path(__file__).resolve().parent / "proxy" / "config.yaml"

# Nothing else of our environment: a vault's or a proxy's own settings are not meant for these.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


class CannotBegin(Exception):
    """The demonstration cannot begin, and why."""


@dataclass(frozen=True)
class Stage:
    """Where everything is. `keys` are LiteLLM keys of this one run."""

    folder: Path
    anthropic: RemoteSimulator
    vault: str
    proxies: dict[str, str]
    keys: dict[Person, str] = field(repr=False)

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def password(self) -> str:
        """The operator's, made for this stage. One that the vault made itself would have to be
        changed at the first sign-in."""
        return self._password_file.read_text().strip()

    @property
    def _password_file(self) -> Path:
        return self.folder / "admin-password"

    def login_file(self, person: Person) -> Path:
        """A `.credentials.json` that the person can bring."""
        return self.folder / f"{person.name}.credentials.json"

    def vault_variables(self) -> dict[str, str]:
        """What the vault's processes and its commands need to be told."""
        return {
            "OAUTHVAULT_DATA_DIR": str(self.data),
            "OAUTHVAULT_PORT": _port(self.vault),
            "CLAUDE_OAUTH_TOKEN_URL": self.anthropic.token_url,
            "CLAUDE_OAUTH_REVOKE_URL": self.anthropic.revoke_url,
        }

    def prepare(self) -> None:
        """The vault's database, its keys and operator, the tenants and their service keys.

        Raises CannotBegin with what was printed.
        """
        self.logs.mkdir()
        write_once(self._password_file, secrets.token_urlsafe(12))
        for tenant in TENANTS:
            users = {
                key: person.name for person, key in self.keys.items() if person.tenant == tenant
            }
            write_once(self._litellm_keys(tenant), json.dumps(users))
        status, printed = _run_to_its_end(
            [sys.executable, "-m", "demo.prepare", str(self.folder)],
            env=_plain()
            | self.vault_variables()
            | {"OAUTHVAULT_ADMIN_PASSWORD_FILE": str(self._password_file)},
        )
        if status:
            raise CannotBegin(f"the vault could not be made:\n{printed}")

    def programs(self) -> list[Program]:
        python = [sys.executable, "-m"]
        return [
            Program(
                "anthropic",
                [
                    *(*python, "tests.simulator", "--port", _port(self.anthropic.url)),
                    *("--access-token-lifetime", str(LIFETIME)),
                ],
                env=_plain(),
                log=self.logs / "anthropic.log",
            ),
            Program(
                "vault",
                [*python, "oauthvault.cli", "up"],
                env=_plain() | self.vault_variables(),
                log=self.logs / "vault.log",
            ),
            *(self._proxy(tenant, url) for tenant, url in self.proxies.items()),
        ]

    def _proxy(self, tenant: str, url: str) -> Program:
        name = f"litellm-{tenant}"
        return Program(
            name,
            [str(LITELLM), "--config", str(_CONFIG), "--host", HOST, "--port", _port(url)],
            env=_plain()
            | {
                "OAUTHVAULT_URL": self.vault,
                "OAUTHVAULT_SERVICE_KEY_FILE": str(self.folder / f"{tenant}.key"),
                "DEMO_KEYS_FILE": str(self._litellm_keys(tenant)),
                "DEMO_ANTHROPIC_URL": self.anthropic.url,
                "DEMO_MASTER_KEY": f"sk-{secrets.token_urlsafe(24)}",
                # Else it reads an .env file that lies about, and asks the network for lists.
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
                # How long the router waits before it tries again after a 401.
                "INITIAL_RETRY_DELAY": "0.01",
                "JITTER": "0.01",
            },
            log=self.logs / f"{name}.log",
        )

    def _litellm_keys(self, tenant: str) -> Path:
        return self.folder / f"{tenant}.litellm-keys.json"


def choose_stage(folder: Path, ports: Ports, narrator: Narrator) -> Stage:
    """A stage in the folder, on the usual ports or, where one is taken, on the next free one."""

    def address(what: str, usual: int) -> str:
        port = ports.take(usual)
        if port != usual:
            narrator.say(f"Port {usual} is taken: {what} gets {port}")
        return f"http://{HOST}:{port}"

    return Stage(
        folder=folder,
        vault=address("the vault", 8000),
        proxies={
            tenant: address(f"LiteLLM of {tenant}", usual)
            for usual, tenant in enumerate(TENANTS, start=4000)
        },
        anthropic=RemoteSimulator(address("Anthropic", 8400)),
        keys={person: f"sk-{person.name}-{secrets.token_hex(8)}" for person in CAST},
    )


def _run_to_its_end(argv: list[str], *, env: dict[str, str]) -> tuple[int, str]:
    """The exit status, and what it printed. It ends when we do, whichever way."""
    program = Tethered(argv, env=env, stdout=subprocess.PIPE, grace=5.0)
    try:
        assert program.stdout is not None  # noqa: S101  it is a pipe
        printed = program.stdout.read().decode(errors="replace")
        while (status := program.returncode()) is None:
            select.select([program], [], [])
        return status, printed
    finally:
        program.close()
        program.returncode()  # waits, now that it was let go


def _plain() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"PYTHONUNBUFFERED": "1"}


def _port(url: str) -> str:
    return url.rpartition(":")[2]
