"""An operator's phone: RFC 6238 by itself, so that the vault's own arithmetic is checked by it."""

import base64
import hashlib
import hmac
import struct

from django.contrib.auth.models import User
from pytest_django import Settings

from tokens import clock, second_factor


class Authenticator:
    def __init__(self, secret: str) -> None:
        self._key = base64.b32decode(secret.replace(" ", ""))

    def code(self, *, at: float | None = None) -> str:
        step = int(clock.now() if at is None else at) // 30
        digest = hmac.new(self._key, struct.pack(">Q", step), hashlib.sha1).digest()
        place = digest[19] & 15
        number = struct.unpack(">I", digest[place : place + 4])[0] & 0x7FFFFFFF
        return f"{number % 10**6:06}"

    def wrong_code(self) -> str:
        """Six digits that are none of those that would be taken now."""
        right = {self.code(at=clock.now() + away) for away in (-60, -30, 0, 30, 60)}
        return next(digits for digits in map("{:06}".format, range(10)) if digits not in right)


def enrolled(operator: User) -> tuple[Authenticator, list[str]]:
    """A phone that the operator has confirmed, and the recovery codes."""
    waiting = second_factor.waiting(second_factor.begin(operator=operator), operator=operator)
    assert waiting is not None
    phone = Authenticator(waiting.secret.reveal())
    now = clock.now()
    codes = second_factor.confirm(operator=operator, code=phone.code(at=now), now=now)
    assert codes is not None
    return phone, [code.reveal() for code in codes]


def let_pass(settings: Settings, seconds: float) -> None:
    """The vault's clock goes on."""
    settings.CLOCK_OFFSET += seconds
