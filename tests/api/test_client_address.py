"""Where a request comes from: the peer, or whom a trusted proxy names, and nobody else."""

import pytest
from django.test import RequestFactory
from pytest_django import Settings

from oauthvault.client_address import client_address
from oauthvault.middleware import current_client_address
from tests.api.conftest import Caller
from tests.conftest import MakeKey
from tokens.models import Tenant

PROXY, PEER, CLIENT = "10.0.0.1", "192.0.2.7", "203.0.113.5"


def seen(peer: str, **headers: str) -> str:
    request = RequestFactory().get("/", REMOTE_ADDR=peer, headers=headers)
    return str(client_address(request))


@pytest.fixture
def behind_proxies(settings: Settings) -> Settings:
    settings.OAUTHVAULT_TRUSTED_PROXIES = ["10.0.0.0/24", "2001:db8:1::/48"]
    return settings


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
def test_without_trusted_proxies_no_header_is_believed(settings: Settings, header: str) -> None:
    settings.OAUTHVAULT_CLIENT_ADDRESS_HEADER = header
    assert seen(PEER, **{header: CLIENT}) == PEER
    assert seen(PEER, **{header: f"for={CLIENT}"}) == PEER


def test_a_peer_that_is_no_proxy_of_ours_is_believed_nothing(behind_proxies: Settings) -> None:
    assert seen(PEER, **{"X-Forwarded-For": CLIENT}) == PEER


@pytest.mark.parametrize(
    ("told", "client"),
    [
        (CLIENT, CLIENT),
        (f"1.1.1.1, {CLIENT}", CLIENT),  # the left part is the client's own invention
        (f"127.0.0.1, {CLIENT}, 10.0.0.9", CLIENT),  # a second proxy of ours
        (f"{CLIENT}:4711", CLIENT),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:203.0.113.5", CLIENT),
        ("10.0.0.9, 10.0.0.8", "10.0.0.9"),  # nobody but ourselves
        (f"{CLIENT}, unknown", "None"),  # never what stands left of what cannot be read
        (f"{CLIENT},", "None"),
        ("", "None"),
    ],
)
def test_of_x_forwarded_for_the_last_one_that_is_not_ours_counts(
    behind_proxies: Settings, told: str, client: str
) -> None:
    assert seen(PROXY, **{"X-Forwarded-For": told}) == client
    assert seen("2001:db8:1::5", **{"X-Forwarded-For": told}) == client


def test_a_proxy_that_names_nobody_is_the_client_itself(behind_proxies: Settings) -> None:
    assert seen(PROXY) == PROXY
    assert seen(PROXY, **{"X-Real-IP": CLIENT, "Forwarded": f"for={CLIENT}"}) == PROXY


@pytest.mark.parametrize(
    ("told", "client"), [(CLIENT, CLIENT), (f"{CLIENT}, 1.1.1.1", "None"), ("x", "None")]
)
def test_x_real_ip_is_one_address(behind_proxies: Settings, told: str, client: str) -> None:
    behind_proxies.OAUTHVAULT_CLIENT_ADDRESS_HEADER = "X-Real-IP"
    assert seen(PROXY, **{"X-Real-IP": told}) == client


@pytest.mark.parametrize(
    ("told", "client"),
    [
        (f"for={CLIENT};proto=https", CLIENT),
        (f"proto=https;For={CLIENT}:80, for=10.0.0.9", CLIENT),
        ('for="[2001:db8::7]:4711"', "2001:db8::7"),
        (f'for="swallow, for={CLIENT}', CLIENT),
        (f'for={CLIENT};host="x;for=1.1.1.1"', "None"),
        ("for=_hidden", "None"),
        ("for=unknown", "None"),
        ("proto=https", "None"),
    ],
)
def test_of_forwarded_the_for_of_the_last_hop_that_is_not_ours_counts(
    behind_proxies: Settings, told: str, client: str
) -> None:
    behind_proxies.OAUTHVAULT_CLIENT_ADDRESS_HEADER = "Forwarded"
    assert seen(PROXY, Forwarded=told) == client


def test_the_networks_of_a_key_are_those_of_the_client_behind_the_proxy(
    ask: Caller, acme: Tenant, make_key: MakeKey, behind_proxies: Settings
) -> None:
    key = make_key(acme, networks=["203.0.113.0/24"])
    for peer, told, status in (
        (PROXY, CLIENT, 200),
        (PROXY, f"{CLIENT}, 198.51.100.1", 401),
        (PROXY, "unknown", 401),
        (PEER, CLIENT, 401),
        (CLIENT, "198.51.100.1", 200),
    ):
        headers = {"X-Forwarded-For": told}
        answer = ask("GET", "status", key=key, user="a", headers=headers, REMOTE_ADDR=peer)
        assert answer.status == status, (peer, told)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
def test_no_header_makes_anybody_a_local_caller_of_the_metrics(
    ask: Caller, settings: Settings, header: str
) -> None:
    """Not even from a trusted proxy on this very machine."""
    settings.OAUTHVAULT_TRUSTED_PROXIES = ["10.0.0.1/32", "127.0.0.0/8"]
    settings.OAUTHVAULT_CLIENT_ADDRESS_HEADER = header
    for peer in (PROXY, "127.0.0.1"):
        for told in ("127.0.0.1", "for=127.0.0.1", "::1"):
            answer = ask("GET", "/metrics", headers={header: told}, REMOTE_ADDR=peer)
            assert answer.status == 401
    assert ask("GET", "/metrics", REMOTE_ADDR=PROXY).status == 401
    assert ask("GET", "/metrics", REMOTE_ADDR="127.0.0.1").status == 401, "it is a proxy"
    settings.OAUTHVAULT_TRUSTED_PROXIES = ["10.0.0.1/32"]
    assert ask("GET", "/metrics", REMOTE_ADDR="127.0.0.1").status == 200


def test_the_address_is_noted_beside_the_name_of_the_request(
    ask: Caller, behind_proxies: Settings
) -> None:
    ask("GET", "health", headers={"X-Forwarded-For": CLIENT}, REMOTE_ADDR=PROXY)
    assert current_client_address.get() == CLIENT
    ask("GET", "health", headers={"X-Forwarded-For": "unknown"}, REMOTE_ADDR=PROXY)
    assert current_client_address.get() == ""
