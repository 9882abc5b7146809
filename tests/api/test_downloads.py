"""Who asks for files and does not read them."""

from pathlib import Path

from django.contrib.staticfiles import finders
from django.test import Client

BUNDLE = "drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"


def test_a_static_file_is_one_piece_which_waits_for_its_reader_in_no_thread(client: Client) -> None:
    answer = client.get(f"/static/{BUNDLE}")
    (piece,) = answer
    found = finders.find(BUNDLE)
    assert isinstance(found, str)
    assert piece == Path(found).read_bytes()
    assert int(answer["Content-Length"]) == len(piece) > 1_000_000


def test_a_part_of_one_and_its_head_are_answered_as_ever(client: Client) -> None:
    part = client.get(f"/static/{BUNDLE}", headers={"range": "bytes=0-9"})
    assert part.status_code == 206
    assert len(part.getvalue()) == 10
    head = client.head(f"/static/{BUNDLE}")
    assert (head.status_code, head.getvalue()) == (200, b"")
    assert int(head["Content-Length"]) > 1_000_000
