"""A caller whose every answer is held against the contract and the published schema."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator

from oauthvault.middleware import HEADER

Json = Any


class Answer:
    """What came back, already known to be of the shape that the schema promises."""

    def __init__(self, response: HttpResponse) -> None:
        self.response = response
        self.status: int = response.status_code
        self.text = response.content.decode()
        self.headers = response.headers

    @property
    def json(self) -> Json:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        return str(self.json["code"])

    @property
    def without_request_id(self) -> tuple[int, str, dict[str, str]]:
        """All that a caller can see but the request id."""
        name = self.headers[HEADER]
        headers = {key: value for key, value in self.headers.items() if key != HEADER}
        return self.status, self.text.replace(name, ""), headers


class Caller:
    def __init__(self, schema: Json) -> None:
        self._schema = schema
        # One for all: to load the middleware takes longer than many a request.
        self._handler = Client(enforce_csrf_checks=True).handler

    def __call__(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        user: str | None = None,
        json: Json = None,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
        **environ: Any,
    ) -> Answer:
        """One request to ``/auth/claude/<path>``, or to ``path`` if it begins with a slash."""
        given = dict(headers or {})
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        if user is not None:
            given["X-OAuthVault-User"] = quote(user, safe="")
        if json is not None:
            body = _dump(json)
        where = path if path.startswith("/") else f"/auth/claude/{path}"
        # As a program on this machine would call it.
        environ.setdefault("SERVER_NAME", "127.0.0.1")
        client = Client(raise_request_exception=False)
        client.handler = self._handler
        response = client.generic(method, where, body, content_type, headers=given, **environ)
        answer = Answer(response)
        self._check(method, where.partition("?")[0].removesuffix("/"), answer)
        return answer

    def _check(self, method: str, path: str, answer: Answer) -> None:
        assert answer.headers[HEADER]
        assert answer.headers["Cache-Control"] == "no-store"
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        if kind == "application/problem+json":
            body = answer.json
            assert list(body)[:6] == ["type", "title", "status", "detail", "code", "request_id"]
            assert body["status"] == answer.status
            assert body["request_id"] == answer.headers[HEADER]
        operation = self._schema["paths"].get(path, {}).get(method.lower())
        if operation is None:
            assert answer.status in (401, 403, 404, 405), "an address that the schema lacks"
            return
        described = operation["responses"].get(str(answer.status))
        assert described is not None, f"{answer.status} is not described: {answer.text[:300]}"
        if answer.status == 304:
            assert answer.text == ""
            return
        assert kind in described["content"], f"{kind} is not described"
        if kind.endswith("json"):
            schema = {
                **described["content"][kind]["schema"],
                "components": self._schema["components"],
            }
            Draft202012Validator(schema).validate(answer.json)


@pytest.fixture(scope="session")
def schema() -> Json:
    """The published schema."""
    return SchemaGenerator().get_schema(public=True)


@pytest.fixture(scope="session")
def _caller(schema: Json) -> Caller:
    return Caller(schema)


@pytest.fixture
def ask(_caller: Caller, db: None) -> Caller:
    return _caller


def in_threads(count: int, work: Callable[[], Answer]) -> list[Answer]:
    """The answers of as many threads, all let go in the same moment."""
    gate = Barrier(count)

    def run(_: int) -> Answer:
        gate.wait()
        try:
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def _dump(value: Json) -> bytes:
    return json.dumps(value).encode()
