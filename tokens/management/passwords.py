"""A new password, as somebody types it at a terminal or a script gives it."""

import getpass
import sys

from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError


def password_for(operator: User) -> str:
    """Asked for twice at a terminal, else the first line of standard input. CommandError for
    none, and for one that Django's validators refuse for this operator."""
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if password and password != getpass.getpass("Password (again): "):
            raise CommandError("the two passwords are not the same")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise CommandError("no password was given")
    try:
        validate_password(password, operator)
    except ValidationError as error:
        raise CommandError(" ".join(error.messages)) from None
    return password
