"""Addresses and the networks they lie in, as keys, tenants and proxies are bound by them."""

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def checked_networks(networks: Iterable[str]) -> list[str]:
    """The networks in their canonical form. ValueError, with a sentence, for what is none."""
    checked = []
    for network in networks:
        try:
            wide = ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise ValueError(
                f"{network!r} is no network; write it like 10.1.2.0/24 or 2001:db8::/48"
            ) from None
        try:
            checked.append(str(ipaddress.ip_network(network, strict=True)))
        except ValueError:
            raise ValueError(
                f"{network!r} is no network: it has bits of a host; the one around it is {wide}"
            ) from None
    return list(dict.fromkeys(checked))


def address_of(text: str) -> Address | None:
    """The address; None for what is none. An IPv4 address in IPv6 clothes is the IPv4 one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def lies_in(address: Address | None, networks: Iterable[str]) -> bool:
    """Whether the address is in one of the networks. Nobody knows it: it is in none."""
    return address is not None and any(
        address in ipaddress.ip_network(network) for network in networks
    )
