"""The cache that the processes of a deployment share: JSON, and nothing that runs when it is read.

Django's own serializer is pickle: whoever can write into Redis could have the web process
run whatever they like, and with it have the encryption key.
"""

import json
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache


def shared() -> BaseCache:
    """In Redis where there is one; else this process's own memory."""
    return caches["shared"]


class JsonSerializer:
    """For `django.core.cache.backends.redis`. Whole numbers stay bare: Redis counts with them."""

    def dumps(self, value: Any) -> int | bytes:
        return value if type(value) is int else json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        """ValueError for whatever is no JSON."""
        return json.loads(data)
