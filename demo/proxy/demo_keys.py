"""The keys of the demonstration's people, known to LiteLLM.

LiteLLM's own keys need PostgreSQL and an engine that no package index carries. This runs in the
proxy's process, as ``general_settings.custom_auth``, and imports nothing of ours.
"""

import json
import os
from pathlib import Path

from fastapi import Request
from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth

_USERS: dict[str, str] = json.loads(Path(os.environ["DEMO_KEYS_FILE"]).read_text())


async def user_api_key_auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Whose key this is. ValueError, of which LiteLLM makes a 401, where it is nobody's."""
    user = _USERS.get(api_key)
    if user is None:
        raise ValueError("no key of this team's")
    return UserAPIKeyAuth(api_key=api_key, user_id=user, user_role=LitellmUserRoles.INTERNAL_USER)
