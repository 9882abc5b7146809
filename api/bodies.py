"""Request bodies: bounded before anything reads them, and parsed strictly."""

import io
import json
from collections.abc import Iterable, Mapping
from typing import IO, Any

from django.conf import settings
from django.http import HttpRequest
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

from api.errors import BodyTooLarge, InvalidJson, InvalidRequest
from tokens.credential_file import shown_name


class StrictJSONParser(JSONParser):
    """JSON as RFC 8259 has it. InvalidJson for anything else, never with a part of it."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return json.loads(stream.read().decode("utf-8"), parse_constant=_refuse_constant)
        except RecursionError:
            raise InvalidJson("The body is nested too deeply.") from None
        except ValueError:
            raise InvalidJson("The body is not JSON in UTF-8.") from None


def bound_body(request: HttpRequest) -> None:
    """BodyTooLarge for more than 64 KiB, announced or not. Reads the rest into memory.

    Read even where the request is then refused unseen: a server that answers first has to
    close the connection, and the client's next request may be lost on it.
    """
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    length = request.META.get("CONTENT_LENGTH") or ""
    if length.isascii() and length.isdigit():
        if int(length[:20]) > most:
            raise BodyTooLarge("A request body has at most 64 KiB.")
        _ = request.body
        return
    if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
        body = _read(request.META["wsgi.input"], most + 1)
        if len(body) > most:
            raise BodyTooLarge("A request body has at most 64 KiB.")
        request.META["CONTENT_LENGTH"] = str(len(body))
        request._stream = io.BytesIO(body)


def refuse_unknown(given: Iterable[Any], *, known: Iterable[str]) -> None:
    """InvalidRequest that names every field that is not ``known``."""
    unknown = [shown_name(name) for name in given if name not in set(known)]
    if unknown:
        raise InvalidRequest(dict.fromkeys(unknown, "is not a field of this request"))


def expect_no_fields(request: Request) -> None:
    """For requests that say all in their address and headers: an empty body or an empty object."""
    fields = request.data
    if not isinstance(fields, Mapping):
        raise InvalidRequest({"(body)": "must be empty"})
    refuse_unknown(fields, known=())


def _read(stream: IO[bytes], most: int) -> bytes:
    parts, left = [], most
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
