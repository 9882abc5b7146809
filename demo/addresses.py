"""Where everything is, and lines to paste."""

import json
import shlex

from demo.caller import question
from demo.cast import CAST, MALLORY, Person
from demo.stage import Stage


def addresses(stage: Stage) -> str:
    """Where to look, with the operator's password."""
    proxies = "".join(
        f"  LiteLLM     {url}         of {tenant}: "
        f"{', '.join(person.name for person in CAST if person.tenant == tenant)}\n"
        for tenant, url in stage.proxies.items()
    )
    return (
        f"  dashboard   {stage.vault}/admin/  sign in as admin, password {stage.password}\n"
        f"  API         {stage.vault}/api/docs\n"
        f"  metrics     {stage.vault}/metrics\n"
        f"{proxies}"
        f"  Anthropic   {stage.anthropic.url}         simulated\n"
        f"  logs        {stage.logs}\n"
    )


def lines_to_paste(stage: Stage) -> str:
    """Requests as each of the people, with this run's LiteLLM keys, and what else to try."""
    ask = "".join(
        f"  # {person}\n  {_curl(stage, person)}/v1/messages -d '{json.dumps(question())}'\n"
        for person in CAST
    )
    someone = CAST[0]
    variables = " ".join(
        f"{name}={shlex.quote(value)}"
        for name, value in stage.vault_variables().items()
        if name != "OAUTHVAULT_PORT"
    )
    return (
        "Ask as one of them:\n"
        f"{ask}"
        "\n"
        f"What the vault knows of the login of {someone}; then have it refreshed:\n"
        f"  {_curl(stage, someone)}/auth/claude/status\n"
        f"  {_curl(stage, someone)}/auth/claude/refresh -X POST\n"
        "\n"
        f"{MALLORY} signs in again:\n"
        f"  {_curl(stage, MALLORY)}/auth/claude/token -X PUT -d @{stage.login_file(MALLORY)}\n"
        "\n"
        "The commands of the vault, for example:\n"
        f"  {variables} .venv/bin/oauthvault credentials --tenant {someone.tenant}\n"
    )


def _curl(stage: Stage, person: Person) -> str:
    """A line of curl up to the address, to which a path is appended."""
    return (
        f"curl -s -H 'Authorization: Bearer {stage.keys[person]}' "
        f"-H 'Content-Type: application/json' {stage.proxies[person.tenant]}"
    )
