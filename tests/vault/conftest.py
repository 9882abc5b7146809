"""What the tests of the domain need beside the standing cast."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_django import Settings

from tokens.models import OAuthCredential
from tokens.secret import Secret

Reread = Callable[[OAuthCredential], OAuthCredential]
NO_REDIS_THERE = Secret("redis://127.0.0.1:1/0")


@pytest.fixture
def data_dir(settings: Settings, tmp_path: Path) -> Path:
    """A data directory that no other process of this test run looks into."""
    settings.OAUTHVAULT_DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def reread() -> Reread:
    def _reread(credential: OAuthCredential) -> OAuthCredential:
        return OAuthCredential.objects.select_related("tenant", "data_key").get(pk=credential.pk)

    return _reread
