"""``oauthvault_litellm.auth`` without a proxy around it, run in LiteLLM's environment.

The vault of these settings is not there. Prints what came of each case, as JSON.
"""

import asyncio
import json
import sys
from typing import Any

from fastapi import Request
from litellm.proxy._types import ProxyException
from oauthvault_litellm.direct import DirectBearer, _others
from oauthvault_litellm.settings import SettingsError, read_settings
from oauthvault_litellm.tokens import Tokens

KEY = "ovs_" + "k" * 43
SETTINGS = read_settings({"vault_url": sys.argv[1], "vault_key": KEY}, {})
TOKEN = "sk-ant-oat01-canary"


def request(**scope: Any) -> Request:
    return Request(scope={"type": "http", **scope})


def to_messages() -> Request:
    return request(
        method="POST",
        path="/v1/messages",
        headers=[(b"authorization", f"Bearer {TOKEN}".encode()), (b"accept", b"*/*")],
    )


async def outcome(asked: Request, key: str) -> Any:
    tokens = Tokens(SETTINGS)
    auth = DirectBearer(SETTINGS, lambda: tokens, None)
    try:
        answer = await auth.authenticate(asked, key)
    except ProxyException as refused:
        return {"status": refused.code, "says": refused.message}
    finally:
        await tokens.aclose()
    return {"answer": repr(answer)}


async def main() -> None:
    seen = to_messages()
    assert TOKEN in seen.headers["authorization"]  # so that Starlette has read them
    found = {
        "away": await outcome(seen, TOKEN),
        "headers left": dict(seen.headers),
        "upgraded": await outcome(request(path="/v1/messages"), TOKEN),
        "another key": await outcome(to_messages(), "sk-1234"),
        "no key": await outcome(to_messages(), ""),
    }
    try:
        _others(read_settings({"vault_key": KEY, "custom_auth": "no_such.auth"}, {}), None)
    except SettingsError as refused:
        found["not found"] = str(refused)
    print(json.dumps(found))


asyncio.run(main())
