"""What virtual keys would do: tells LiteLLM which user a test key belongs to.

Real virtual keys need PostgreSQL and an engine that no package index carries. LiteLLM loads this
as ``general_settings.custom_auth`` in the proxy's own process, so nothing of ours is imported.
"""

import os

from fastapi import Request
from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth


async def user_api_key_auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    if api_key == os.environ["TEST_MASTER_KEY"]:
        return UserAPIKeyAuth(
            api_key=api_key,
            user_id="default_user_id",
            user_role=LitellmUserRoles.PROXY_ADMIN,
        )
    if api_key == "sk-test-nobody":
        return UserAPIKeyAuth(api_key=api_key, user_role=LitellmUserRoles.INTERNAL_USER)
    if api_key.startswith("sk-test-"):
        return UserAPIKeyAuth(
            api_key=api_key,
            user_id=api_key.removeprefix("sk-test-"),
            user_role=LitellmUserRoles.INTERNAL_USER,
        )
    raise ValueError("unknown test key")
