"""What virtual keys would do: tells LiteLLM which user a test key belongs to.

Real virtual keys need PostgreSQL and an engine that no package index carries. LiteLLM loads this
as ``general_settings.custom_auth`` in the proxy's own process, so nothing of ours is imported.
"""

import os
from typing import Any

from fastapi import Request
from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth

# As LiteLLM makes such keys: none of them has a user.
_NOBODYS: dict[str, dict[str, Any]] = {
    "sk-test-nobody": {},
    "sk-test-of-a-team": {"team_id": "team-blue"},
    "sk-test-service-account": {
        "team_id": "team-blue",
        "metadata": {"service_account_id": "nightly"},
    },
}


async def user_api_key_auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    if api_key == os.environ["TEST_MASTER_KEY"]:
        return UserAPIKeyAuth(
            api_key=api_key,
            user_id="default_user_id",
            user_role=LitellmUserRoles.PROXY_ADMIN,
        )
    if api_key in _NOBODYS:
        return UserAPIKeyAuth(
            api_key=api_key, user_role=LitellmUserRoles.INTERNAL_USER, **_NOBODYS[api_key]
        )
    if api_key.startswith("sk-test-"):
        user_id, _, model = api_key.removeprefix("sk-test-").partition("+only+")
        return UserAPIKeyAuth(
            api_key=api_key,
            user_id=user_id,
            models=[model] if model else [],
            user_role=LitellmUserRoles.INTERNAL_USER,
        )
    raise ValueError("unknown test key")
