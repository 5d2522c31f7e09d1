"""Reading the packet of `ipsecctl policy`: SRC[:PORT] DST[:PORT] [PROTOCOL [SPORT] [DPORT] | icmp [TYPE [CODE]]]."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from ipsecd.control.schema import PolicyQuery
from ipsecd.selectors import HAS_PORTS, ICMP_PROTOCOLS, PROTOCOL_NAMES

_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()} | {"icmpv6": 58, "esp": 50, "gre": 47, "any": 0}


def parse_packet(words: Sequence[str], *, inbound: bool = False, interface: str | None = None) -> PolicyQuery:
    """Return the packet that an operator described.  Raises ValueError with a sentence."""
    if len(words) < 2:
        raise ValueError("a packet is SOURCE DESTINATION [PROTOCOL [SOURCE-PORT DESTINATION-PORT]]")
    source, source_port = _side(words[0])
    destination, destination_port = _side(words[1])
    if ip_address(source).version != ip_address(destination).version:
        raise ValueError("source and destination are of different address families")
    protocol = _protocol(words[2]) if len(words) > 2 else 0
    numbers = [_number(word) for word in words[3:]]
    icmp = None
    if protocol in ICMP_PROTOCOLS:
        icmp = _icmp(numbers)
    elif numbers:
        source_port, destination_port = _ports(numbers, source_port, destination_port)
    if (source_port, destination_port) != (None, None) and protocol not in HAS_PORTS:
        raise ValueError("ports need a protocol that has them, such as tcp or udp")
    return PolicyQuery(source=source, destination=destination, protocol=protocol, source_port=source_port,
                       destination_port=destination_port, icmp=icmp, inbound=inbound, interface=interface)


def _side(word: str) -> tuple[str, int | None]:
    address, port = word, None
    if word.startswith("["):
        address, _, rest = word[1:].partition("]")
        port = _number(rest[1:]) if rest.startswith(":") else None
        if rest and port is None:
            raise ValueError(f"{word}: expected [ADDRESS]:PORT")
    elif word.count(":") == 1:
        address, _, text = word.partition(":")
        port = _number(text)
    try:
        return str(ip_address(address)), port
    except ValueError:
        raise ValueError(f"{address}: not an address") from None


def _protocol(word: str) -> int:
    if word.lower() in _NUMBERS:
        return _NUMBERS[word.lower()]
    number = _number(word)
    if number > 255:
        raise ValueError(f"{word}: a protocol number is at most 255")
    return number


def _number(word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 5 or int(word) > 65535:
        raise ValueError(f"{word}: not a number from 0 to 65535")
    return int(word)


def _icmp(numbers: list[int]) -> tuple[int, int] | None:
    if len(numbers) > 2 or any(n > 255 for n in numbers):
        raise ValueError("icmp takes a type and a code, each at most 255")
    return (numbers[0], numbers[1] if len(numbers) == 2 else 0) if numbers else None


def _ports(numbers: list[int], source_port: int | None, destination_port: int | None) -> tuple[int | None, int | None]:
    if (source_port, destination_port) != (None, None) or len(numbers) > 2:
        raise ValueError("give ports once: as ADDRESS:PORT, or as SOURCE-PORT DESTINATION-PORT")
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (None, numbers[0])
