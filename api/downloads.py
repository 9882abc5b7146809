"""What is sent piece by piece has a thread for as long as its reader takes to read.

The server asks for the next piece in the thread that answers, when the last one has left. So files
of ours go out in one piece, which the server keeps by itself; and of exports, which are of any
length and written while they are sent, one at a time."""

import threading
from collections.abc import Callable, Iterable, Iterator

from django.http import FileResponse, HttpRequest, HttpResponseBase, StreamingHttpResponse

from api.pages import is_for_people, page

# One thread of a process, whoever reads slowly: the others hand out tokens.
_room = threading.BoundedSemaphore(1)
# Seconds to wait for the place.
_PATIENCE = 0.25


def one_at_a_time(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware for the dashboard's exports. They are of any length: what fits into no buffer of
    the connection would have a thread for each reader who does not read."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if not isinstance(response, StreamingHttpResponse) or not is_for_people(request):
            return response
        if not _room.acquire(timeout=_PATIENCE):
            # Not closed: that would say that the request is over. Nothing of it has been read.
            busy = page(
                title="Another file is on its way",
                sentence="One export is sent at a time. Try again when it is through.",
                status=503,
            )
            busy["Retry-After"] = "5"
            return busy
        response.streaming_content = _InItsPlace(response)
        return response

    return middleware


def whole_files(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware around what serves the static files, to anybody. The largest has some megabytes;
    several of them asked for on one connection are in the server's memory one after the other."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if isinstance(response, FileResponse):
            response.streaming_content = [b"".join(_synchronous(response))]
        return response

    return middleware


class _InItsPlace:
    """The content of an answer, which gives its place back when it is closed, read or not."""

    def __init__(self, response: StreamingHttpResponse) -> None:
        self._content: Iterator[bytes] = iter(_synchronous(response))
        self._has_place = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._content)

    def close(self) -> None:
        if self._has_place:
            self._has_place = False
            _room.release()

    # An answer that nobody closes is dropped.
    __del__ = close


def _synchronous(response: StreamingHttpResponse) -> Iterable[bytes]:
    content = response.streaming_content
    if not isinstance(content, Iterable):
        raise TypeError("an answer that only an asynchronous server can send")
    return content
