"""Which addresses are public, and which hand out credentials, in every spelling that IPv6 has for an IPv4 address."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address

# Closed beside what `is_global` already denies; that differs between Python's patch releases.
_CLOSED_4 = tuple(map(IPv4Network, (
    "0.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4",
)))  # fmt: skip
# Of IPv6 only the range given out for public use is open, without documentation, tunnels to IPv4 and the like.
_OPEN_6 = IPv6Network("2000::/3")
_CLOSED_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64 = IPv6Network("64:ff9b::/96")
# Whose last 32 bits are an IPv4 address that they stand for, where something translates them.
_TRANSLATED_6 = (_NAT64, *map(IPv6Network, ("64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")))
# Where clouds hand out credentials. An exception for a name does not open these: its owner could point it there.
METADATA = tuple(map(ip_network, (
    "169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fe80::/10", "fd00:ec2::/32",
    "fd20:ce::254/128",
)))  # fmt: skip


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public internet's; of one that stands for an IPv4 address, whether that is."""
    address = plain(address)
    match address:
        case IPv4Address():
            return address.is_global and not within(address, _CLOSED_4)
        case IPv6Address() if address in _NAT64 and not address.scope_id:
            return is_public(embedded(address))
        case _:
            opened = address in _OPEN_6 and not within(address, _CLOSED_6)
            return opened and address.is_global and not address.scope_id


def plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one merely spells, else the address."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for where it is translated or tunnelled, else the address."""
    if not isinstance(address, IPv6Address):
        return address
    return IPv4Address(int(address) & 0xFFFF_FFFF) if within(address, _TRANSLATED_6) else address.sixtofour or address


def within(address: Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Return whether an address is in any of the networks."""
    return any(address.version == network.version and address in network for network in networks)
