"""Where a request comes from: the peer, or whom a proxy of ours names.

A header is somebody's word. It is believed from OAUTHVAULT_TRUSTED_PROXIES only, and of it
only what they have added themselves: read from the right, the first address that is not one
of them. Whatever stands further left was sent by the client, and may be anything.
"""

import re

from django.conf import settings
from django.http import HttpRequest
from django.http.request import split_domain_port

from tokens.networks import Address, address_of, lies_in

X_FORWARDED_FOR, X_REAL_IP, FORWARDED = "X-Forwarded-For", "X-Real-IP", "Forwarded"
HEADERS = (X_FORWARDED_FOR, X_REAL_IP, FORWARDED)

# An address with a port behind it: 192.0.2.1:4711, [2001:db8::1]:4711, [2001:db8::1].
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")

# Names of headers that proxies, load balancers and their networks put in, and programs that
# call by themselves do not.
_SIGN_OF_A_PROXY = re.compile(
    r"(x-)?forwarded(-.*)?|via|x-real-ip|.*(client|connecting|cluster|user|remote)-(ip|addr)"
    r"|x-original-.*|(x-)?proxy.*|cf-.*|cdn-.*|x-(envoy|amzn?|azure|arr|appengine|nginx)-.*",
    re.IGNORECASE,
)


def client_address(request: HttpRequest) -> Address | None:
    """The address that the request comes from. None: nobody knows it, and it is in no network.

    From a trusted proxy that sends no such header it is the proxy's own.
    """
    peer = address_of(request.META.get("REMOTE_ADDR", ""))
    proxies = settings.OAUTHVAULT_TRUSTED_PROXIES
    if not proxies or not lies_in(peer, proxies):
        return peer
    told = request.headers.get(settings.OAUTHVAULT_CLIENT_ADDRESS_HEADER)
    if told is None:
        return peer
    if settings.OAUTHVAULT_CLIENT_ADDRESS_HEADER == X_REAL_IP:
        return _address(told)
    client = peer
    # A comma inside quotes counts as well: no address has one, and a client that opens quotes
    # must not swallow what the proxy wrote behind them.
    for hop in reversed(told.split(",")):
        client = _address(_named(hop))
        if client is None or not lies_in(client, proxies):
            break
    return client


def is_local_caller(request: HttpRequest) -> bool:
    """Whether a program on this machine asks, by itself and by an address of this machine.

    A proxy on this machine is one too, and asks for the whole world. So none of
    OAUTHVAULT_TRUSTED_PROXIES is a local caller, nor whoever sends a header that proxies send,
    nor who came by another name. A proxy that was not named and adds nothing cannot be told.
    """
    peer = address_of(request.META.get("REMOTE_ADDR", ""))
    return (
        peer is not None
        and peer.is_loopback
        and not lies_in(peer, settings.OAUTHVAULT_TRUSTED_PROXIES)
        and not any(_SIGN_OF_A_PROXY.fullmatch(name) for name in request.headers)
        and _is_name_of_this_machine(request.get_host())
    )


def _is_name_of_this_machine(host: str) -> bool:
    name, _ = split_domain_port(host)
    address = address_of(name.strip("[]"))
    return name == "localhost" or (address is not None and address.is_loopback)


def _named(hop: str) -> str:
    """Whom one hop names; in `Forwarded` it is the one ``for=`` (RFC 7239 section 4)."""
    if settings.OAUTHVAULT_CLIENT_ADDRESS_HEADER != FORWARDED:
        return hop
    pairs = [pair.partition("=") for pair in hop.split(";")]
    named = [value for name, _, value in pairs if name.strip().lower() == "for"]
    return named[0].strip().strip('"') if len(named) == 1 else ""


def _address(text: str) -> Address | None:
    text = text.strip()
    with_port = _WITH_PORT.fullmatch(text)
    return address_of((with_port[1] or with_port[2]) if with_port else text)
