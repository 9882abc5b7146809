"""No token and no ciphertext is in any page, whoever looks and whatever is done."""

import re

from django.test import Client

from tests.admin.canaries import Canaries
from tests.admin.conftest import Cast
from tests.admin.test_permissions import ACTS, LIST, addresses, page_of

_NO_PAGE = ("/admin/search/",)


def test_no_page_shows_a_token_or_a_ciphertext(
    cast: Cast, root: Client, canaries: Canaries
) -> None:
    for page in addresses(cast):
        answer = root.get(page)
        assert answer.status_code == 200 or page.startswith(_NO_PAGE), page
        assert canaries.found_in(answer.content.decode()) == [], page


def test_no_act_shows_one_either(cast: Cast, root: Client, canaries: Canaries) -> None:
    """The questions, what follows them, their messages, and the error pages."""
    pks = [each.pk for each in cast.people]
    for act in ACTS:
        for form in ({}, {"confirmed": "yes"}):
            target = page_of(cast["alice" if act != "resume" else "carla"], act)
            answer = root.post(target, form, follow=True)
            assert canaries.found_in(answer.content.decode()) == [], act
            many = {"action": f"{act}_many", "_selected_action": pks[5:9], **form}
            answer = root.post(LIST, many, follow=True)
            assert canaries.found_in(answer.content.decode()) == [], act
    for wrong in (f"{LIST}?access_token_encrypted__startswith=a", f"{LIST}999999/change/"):
        assert canaries.found_in(root.get(wrong, follow=True).content.decode()) == []


def test_the_walk_would_find_one(cast: Cast, canaries: Canaries) -> None:
    """The canaries sing: a token, a ciphertext, or half of one is recognised."""
    for secret in canaries._planted:
        assert canaries.found_in(f"<p>{secret}</p>")
        assert canaries.found_in(f"<p>{secret[20:50]}</p>")


def test_no_page_loads_anything_from_another_host(cast: Cast, root: Client) -> None:
    for page in addresses(cast):
        content = root.get(page).content.decode()
        for address in re.findall(
            r'<(?:script|link|img|iframe)[^>]*?(?:src|href)="([^"]*)"', content
        ):
            assert not re.match(r"(?:https?:)?//", address), (page, address)
