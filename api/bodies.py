"""Request bodies: bounded before anything reads them, and parsed strictly."""

import io
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

from api.errors import BodyTooLarge, InvalidJson, InvalidRequest, TooManyBodies
from api.problems import unread
from tokens import strict_json
from tokens.credential_file import shown_name
from tokens.errors import VaultError

# A quarter of the request threads: half may wait for refreshes, and the rest is for everybody.
_room = threading.BoundedSemaphore(max(1, settings.OAUTHVAULT_WEB_THREADS // 4))
# Seconds to wait for a place. A body that is there is read in much less.
_PATIENCE = 0.25
_TOO_LARGE = "A request body has at most 64 KiB."
# The dashboard's page that takes files, and the permission to send it one.
IMPORT_PAGE, _MAY_IMPORT = "/admin/tokens/oauthcredential/import/", "tokens.import_oauthcredential"
# One at a time, so that a place for everybody else's bodies is left wherever there are two.
_upload = threading.BoundedSemaphore(1)


class StrictJSONParser(JSONParser):
    """JSON as RFC 8259 has it, and no name twice in one object. InvalidJson for anything else,
    never with a part of it but such a name."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return strict_json.loads(stream.read().decode("utf-8"))
        except strict_json.GivenTwice as refusal:
            raise InvalidJson(f"In the body {refusal}.") from None
        except RecursionError:
            raise InvalidJson("The body is nested too deeply.") from None
        except ValueError:
            raise InvalidJson("The body is not JSON in UTF-8.") from None


def bounded(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: at most 64 KiB of body, announced or not, for every address but one, so that
    none can forget it. What is refused is answered before anything else is looked at. (The one is
    the page that takes files: `bounded_upload` sees to it when it is known who asks.)

    A body is read into memory even where the request is then refused unseen: a server that
    answers first has to close the connection, and the client's next request may be lost on it.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        try:
            if not _may_be_upload(request):
                _bound(request, settings.DATA_UPLOAD_MAX_MEMORY_SIZE, _TOO_LARGE)
        except VaultError as refused:
            return unread(request, refused)
        return get_response(request)

    return middleware


def bounded_upload(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware, where it is known who asks: the page that takes files takes larger bodies, from
    operators who may import. They are kept in memory alone; so one is read at a time."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if not _may_be_upload(request):
            return get_response(request)
        try:
            if not request.user.has_perm(_MAY_IMPORT):
                _bound(request, settings.DATA_UPLOAD_MAX_MEMORY_SIZE, _TOO_LARGE)
            else:
                _bound_upload(request)
        except VaultError as refused:
            return unread(request, refused)
        return get_response(request)

    return middleware


def _may_be_upload(request: HttpRequest) -> bool:
    return request.path == IMPORT_PAGE and request.method == "POST"


def _bound_upload(request: HttpRequest) -> None:
    if not _upload.acquire(timeout=_PATIENCE):
        raise TooManyBodies("Another file is on its way.", retry_after=1)
    try:
        _bound(
            request,
            settings.FILE_UPLOAD_MAX_MEMORY_SIZE,
            "A file has at most 5 MiB here; `oauthvault import_credentials` takes larger ones.",
        )
    finally:
        _upload.release()
    try:
        # Here, and not where the CSRF token is looked for: its refusal would have no sentence. To
        # look is what has it read (B018 takes that for a line without effect).
        request.POST  # noqa: B018
    except RequestDataTooBig:
        raise BodyTooLarge(
            "What is pasted has at most 64 KiB. A longer list goes in as a file."
        ) from None


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


def _bound(request: HttpRequest, most: int, sentence: str) -> None:
    announced = request.META.get("CONTENT_LENGTH") or ""
    if announced.isascii() and announced.isdigit():
        length = int(announced[:20])
        if length > most:
            raise BodyTooLarge(sentence)
        body = _read_in_turn(request.META["wsgi.input"], length) if length else b""
        if len(body) < length:
            raise InvalidRequest({"(body)": "ended before its announced length"})
    elif "chunked" in request.headers.get("Transfer-Encoding", "").lower():
        body = _read_in_turn(request.META["wsgi.input"], most + 1)
        if len(body) > most:
            raise BodyTooLarge(sentence)
        request.META["CONTENT_LENGTH"] = str(len(body))
    else:
        return
    request._stream = io.BytesIO(body)


def _read_in_turn(stream: IO[bytes], most: int) -> bytes:
    """At most so many bytes. The server's `read` blocks for as long as the sender likes, and
    cannot be given up: so few threads may read at once, and slow senders never have them all."""
    if not _room.acquire(timeout=_PATIENCE):
        raise TooManyBodies("Too many bodies of requests are on their way.", retry_after=1)
    try:
        return _read(stream, most)
    except OSError:
        # The sender went away. Nobody reads the answer.
        return b""
    finally:
        _room.release()


def _read(stream: IO[bytes], most: int) -> bytes:
    parts, left = [], most
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
