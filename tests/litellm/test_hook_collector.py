"""A stream that the garbage collector ends does not end the proxy (CPython issue 148891)."""

import json
import signal
import subprocess

import pytest

from tests.litellm.processes import HERE, LITELLM_ENVIRONMENT, require_litellm

pytestmark = pytest.mark.system


def python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    require_litellm()
    return subprocess.run(
        [str(LITELLM_ENVIRONMENT / "bin" / "python"), *arguments],
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def at_risk() -> bool:
    asked = python("-c", "from oauthvault_litellm import collector; print(collector.IS_AT_RISK)")
    return asked.stdout.strip() == "True"


def test_streams_lost_in_cycles_change_no_variable_while_the_collector_runs(at_risk: bool) -> None:
    ended = python(str(HERE / "lost_streams.py"), "hooked")
    assert ended.returncode == 0, ended.stderr
    counted = json.loads(ended.stdout)
    assert counted["dropped"] == 1, "a stream that is dropped puts its ids back"
    assert (counted["collected"] == 0) == at_risk


def test_without_the_hook_they_do_and_may_end_the_process(at_risk: bool) -> None:
    """Once this fails for a release of LiteLLM, the guard can go for it."""
    ended = python(str(HERE / "lost_streams.py"))
    if ended.returncode == -signal.SIGSEGV:
        assert at_risk
    else:
        assert json.loads(ended.stdout)["collected"] > 0
