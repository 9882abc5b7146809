"""A key that is revoked by one process is refused by every other with its next request."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import oauthvault, own_stores, web_processes

pytestmark = [pytest.mark.system, pytest.mark.postgres_too]


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    given = {
        "OAUTHVAULT_DATA_DIR": str(tmp_path / "data"),
        "OAUTHVAULT_WEB_WORKERS": "1",
    }
    with own_stores() as stores:
        yield given | stores


def test_two_processes_refuse_a_key_with_the_next_request_after_its_revocation(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    with web_processes(tmp_path, 2, **variables) as addresses:
        made = oauthvault("create_key", "default", **variables)
        key = made.stdout.strip()
        rotated = oauthvault("rotate_key", key[:12], "--overlap", "1h", **variables)
        successor = rotated.stdout.strip()

        def statuses(shown: str) -> list[int]:
            return [
                httpx.get(
                    f"{address}/auth/claude/status",
                    headers={"Authorization": f"Bearer {shown}"},
                    timeout=60,
                ).status_code
                for address in addresses
                for _ in range(2)
            ]

        assert statuses(key) == statuses(successor) == [200] * 4
        assert oauthvault("revoke_key", key[:12], **variables).returncode == 0
        assert statuses(key) == [401] * 4
        assert statuses(successor) == [200] * 4
        assert oauthvault("suspend", "--tenant", "default", **variables).returncode == 0
        assert statuses(successor) == [403] * 4
