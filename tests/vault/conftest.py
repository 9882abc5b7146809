"""What the tests of the domain need beside the standing cast."""

from collections.abc import Callable

import pytest

from tokens.models import OAuthCredential


@pytest.fixture
def reread() -> Callable[[OAuthCredential], OAuthCredential]:
    def _reread(credential: OAuthCredential) -> OAuthCredential:
        return OAuthCredential.objects.select_related("tenant", "data_key").get(pk=credential.pk)

    return _reread
