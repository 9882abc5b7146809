"""Fill the database that the environment names, ask for every page, write down how long it took.

A process of its own: the vault's settings are read once, when it starts.
"""

import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django

from oauthvault.env import child_environment

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")
_TIMES = 3


def main() -> None:
    django.setup()
    from bench.dashboard import fill
    from tokens import isolation
    from tokens.models import Tenant

    print("Filling a database with a deployment of 100,000 people", flush=True)
    owner_url = child_environment()["OAUTHVAULT_MIGRATION_DATABASE_URL"]
    rows = fill.fill(owner_url, now=time.time())
    told: dict[str, Any] = {"rows": rows, "pages": [], "not_seen": {}}
    with isolation.every_tenant():
        tenant = Tenant.objects.get(slug=fill.ONE_TENANT)
        operators = {"administrator": _administrator(), "one tenant's": _operator_of(tenant)}
        asked = {who: list(_pages_for(user, tenant)) for who, user in operators.items()}
    for who, user in operators.items():
        _measure(who, user, asked[who], told)
    Path(sys.argv[1]).write_text(json.dumps(told))


def _measure(who: str, user: Any, addresses: list[str], told: dict[str, Any]) -> None:
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    # Nearly a hundred refusals that are meant, each with its traceback.
    logging.disable(logging.CRITICAL)
    client = Client(HTTP_HOST="127.0.0.1")
    client.raise_request_exception = False
    client.force_login(user)
    client.get("/admin/")  # the templates are read once in a process
    for address in addresses:
        times = []
        for _ in range(_TIMES):
            began = time.perf_counter()
            answer = client.get(address)
            b"".join(answer)
            times.append(time.perf_counter() - began)
            if answer.status_code != 200:
                break
        if answer.status_code != 200:
            told["not_seen"][f"{address} ({who})"] = answer.status_code
            continue
        with CaptureQueriesContext(connection) as queries:
            client.get(address)
        told["pages"].append(
            {
                "who": who,
                "address": address,
                "median": statistics.median(times),
                "worst": max(times),
                "queries": len(queries),
            }
        )


def _pages_for(user: Any, tenant: Any) -> Iterator[str]:
    from django.contrib import admin
    from django.contrib.auth.models import User
    from django.test import RequestFactory

    from bench.dashboard import walk
    from tokens.models import OAuthCredential, RefreshAttempt, Tenant

    request = RequestFactory().get("/admin/")
    request.user = user
    one_of: dict[Any, int] = {}
    for model in admin.site._registry:
        rows = model._default_manager.order_by("pk")
        if any(field.name == "tenant" for field in model._meta.fields):
            rows = rows.filter(tenant=tenant)
        if (row := rows.first()) is not None:
            one_of[model] = row.pk
    # The one to whom most has happened.
    one_of[OAuthCredential] = RefreshAttempt.objects.filter(upstream_status=503)[0].credential_id
    one_of[Tenant] = tenant.pk
    one_of[User] = User.objects.exclude(pk=user.pk).order_by("pk")[0].pk
    yield from dict.fromkeys(walk.addresses(request, one_of=one_of))


def _administrator() -> Any:
    from django.contrib.auth.models import User

    return User.objects.create_superuser("bench-administrator")


def _operator_of(tenant: Any) -> Any:
    from django.contrib.auth.models import Group, User

    from tokens import roles

    user = User.objects.create_user("bench-operator", is_staff=True)
    user.groups.add(Group.objects.get(name=roles.Role.OPERATOR.value))
    roles.assign(operator=user, tenant=tenant, actor="bench", now=time.time())
    return user


if __name__ == "__main__":
    main()
