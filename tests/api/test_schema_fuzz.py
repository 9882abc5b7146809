"""Requests made up from the published schema, right and wrong ones: no answer is a failure of the
server's, and each is of a shape that the schema promises."""

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import Json
from tests.conftest import MakeKey, Store
from tests.simulator import Simulator
from tokens import isolation
from tokens.models import Tenant

pytestmark = pytest.mark.django_db(transaction=True)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Of each kind of request, for each operation.
EXAMPLES = 15


@pytest.fixture
def keys(
    acme: Tenant, make_key: MakeKey, store: Store, upstream: Simulator
) -> dict[str, str | None]:
    with isolation.every_tenant():
        store(acme, "alice", upstream.new_login("alice"))
        scopes = ["token:read", "token:write", "status:read"]
        return {
            "service": make_key(acme),
            "user": make_key(acme, user_id="alice", scopes=scopes),
            "none": None,
        }


@pytest.mark.parametrize("kind", ["service", "user", "none"])
def test_every_answer_is_one_that_the_schema_promises(
    schema: Json, keys: dict[str, str | None], kind: str
) -> None:
    described = schemathesis.openapi.from_dict(schema)
    described.app = WSGIHandler()
    tried = 0
    for found in described.get_all_operations():
        tried += _try(found.ok(), keys[kind])
    assert tried > 10 * EXAMPLES


def _try(operation: APIOperation, key: str | None) -> int:
    """How many requests were made of it, those that fit the schema and those that do not."""
    tried = 0

    @given(
        case=st.one_of(
            operation.as_strategy(GenerationMode.POSITIVE),
            operation.as_strategy(GenerationMode.NEGATIVE),
        )
    )
    @settings(
        max_examples=2 * EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case) -> None:
        nonlocal tried
        tried += 1
        case.headers = {
            name: value for name, value in (case.headers or {}).items() if name != "Authorization"
        }
        if key is not None:
            case.headers["Authorization"] = f"Bearer {key}"
        case.call_and_validate(base_url="http://127.0.0.1", checks=CHECKS)

    ask()
    return tried
