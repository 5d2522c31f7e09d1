"""Scalars: text -> typed values.  Each parser raises ValueError whose message continues "expected ..." and, where
YAML 1.1 would have read something else, names the cure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from ipsecd.config.nodes import Text
from ipsecd.selectors import HAS_PORTS, ICMP_PROTOCOLS, PROTOCOL_NAMES, TrafficSelector, from_prefix
from ipsecd.text import dns_name

_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
               "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
YAML_1_1_WORDS = frozenset({"yes", "no", "on", "off", "true", "false", "null", "~"})
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})(\.[0-9]{1,6})?")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,8}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")     # IFNAMSIZ is 16 with its NUL
_PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()} | {"icmpv6": 58, "any": 0}
_INTERFACE_WORDS = frozenset({"all", "default", "lo"})           # of net.ipv4.conf, and the loopback


def text_of(value: object, wanted: str) -> str:
    """Return a scalar that is to be text; refuse containers, nothing, and the words YAML 1.1 reads as no text."""
    text = scalar(value, wanted)
    if isinstance(value, Text) and value.plain and text.lower() in YAML_1_1_WORDS:
        raise ValueError(f'{wanted}; write "{text}" in quotes, because without them YAML 1.1 reads no text')
    return text


def scalar(value: object, wanted: str) -> str:
    """Return any scalar that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(wanted)
    return str(value)


def integer(low: int, high: int, *, what: str) -> Callable[[object], int]:
    """Return a parser of decimal numbers between the bounds."""
    wanted = f"{what} between {low} and {high}"

    def parse(value: object) -> int:
        number = _decimal(scalar(value, wanted), wanted)
        if not low <= number <= high:
            raise ValueError(wanted)
        return number
    return parse


def _decimal(text: str, wanted: str) -> int:
    # int() would take "1_0", " 1", "+1" and other scripts' digits.
    if re.fullmatch(r"0[0-9_]+", text, re.ASCII):
        raise ValueError(f"{wanted}; write it without leading zeros, which YAML 1.1 reads as octal")
    if re.fullmatch(r"[0-9][0-9_]*_[0-9_]*", text, re.ASCII):
        raise ValueError(f"{wanted}; write it without underscores")
    if re.fullmatch(r"[0-9]+(:[0-9]+)+", text, re.ASCII):
        raise ValueError(f"{wanted}; a colon makes no number (YAML 1.1 reads {text} in base 60)")
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text, re.ASCII):
        raise ValueError(wanted)
    return int(text)


def duration(low: float, high: float) -> Callable[[object], float]:
    """Return a parser of "54m", "4h", "1.5s" or plain seconds, between bounds in seconds."""
    wanted = f"a time such as 10s, 54m, 4h, or a number of seconds, between {show_s(low)} and {show_s(high)}"

    def parse(value: object) -> float:
        text = scalar(value, wanted)
        match = re.fullmatch(rf"{_NUMBER.pattern}(ms|s|m|h|d)?", text, re.ASCII)
        if match is None:
            _decimal(text, wanted)
            raise ValueError(wanted)
        seconds = float(match[1] + (match[2] or "")) * _DURATION_UNITS[match[3] or ""]
        if not low <= seconds <= high:
            raise ValueError(wanted)
        return seconds
    return parse


def show_s(seconds: float) -> str:
    """Return a time in seconds as the configuration writes it: "4h", "54m", "10s"."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def size(low: int, high: int) -> Callable[[object], int]:
    """Return a parser of "4GiB", "500 MB" or plain bytes, between bounds in bytes."""
    wanted = "a size such as 4GiB, 500MB, or a number of bytes"

    def parse(value: object) -> int:
        text = scalar(value, wanted)
        match = re.fullmatch(rf"{_NUMBER.pattern} ?([kKMGT]?i?B)?", text, re.ASCII)
        if match is None or (match[3] or "") not in _SIZE_UNITS:
            _decimal(text, wanted)
            raise ValueError(wanted)
        count = int(float(match[1] + (match[2] or "")) * _SIZE_UNITS[match[3] or ""])
        if not low <= count <= high:
            raise ValueError(f"{wanted}, between {low} and {high}")
        return count
    return parse


def boolean(value: object) -> bool:
    """Parse true or false; YAML 1.1's other words are refused with the right one."""
    text = value if isinstance(value, str) else ""
    if text in ("true", "false"):
        return text == "true"
    cure = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}.get(text.lower())
    raise ValueError("true or false" + (f"; write {cure}" if cure else ""))


def choice(words: Iterable[str]) -> Callable[[object], str]:
    """Return a parser that takes one of `words`."""
    allowed = tuple(words)

    def parse(value: object) -> str:
        text = value if isinstance(value, str) else ""
        if text in allowed:
            return str(text)
        raise ValueError(f"one of {', '.join(allowed)}{suggest(text, allowed)}")
    return parse


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for a near miss, else nothing."""
    near = difflib.get_close_matches(word[:64], list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def name(value: object) -> str:
    """Parse the name of a peer, child or policy: it appears in commands as PEER/CHILD."""
    wanted = "a name of at most 64 letters, digits, '_', '-' and '.'"
    text = text_of(value, wanted)
    if not _NAME.fullmatch(text):
        raise ValueError(wanted)
    return text


def interface(value: object) -> str:
    """Parse the name of a network interface."""
    wanted = "the name of an interface: at most 15 letters, digits, '_', '-' and '.'"
    text = text_of(value, wanted)
    if not _INTERFACE.fullmatch(text) or text in _INTERFACE_WORDS:
        raise ValueError(wanted)
    return text


def host(value: object) -> str:
    """Parse an IP address or DNS name that can be sent to."""
    wanted = "an IP address or a DNS name"
    text = text_of(value, wanted)
    if ":" in text or re.fullmatch(r"[0-9.]+", text, re.ASCII):
        return address(value)
    if not dns_name(text):
        raise ValueError(wanted)
    return text


def address(value: object) -> str:
    """Parse a unicast IP address; return its canonical form."""
    wanted = "a unicast IP address without scope, such as 192.0.2.1 or 2001:db8::1"
    text = text_of(value, wanted)
    try:
        parsed = ip_address(text)
    except ValueError:
        raise ValueError(wanted) from None
    mapped = parsed.version == 6 and parsed.ipv4_mapped is not None
    if "%" in text or mapped or parsed.is_multicast or parsed.is_unspecified:
        raise ValueError(wanted)
    return str(parsed)


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a parsed host is, None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def protocol(value: object) -> int:
    """Parse a protocol by name or number; 0 is any."""
    wanted = f"a protocol number between 1 and 255 or one of {', '.join(sorted(_PROTOCOL_NUMBERS))}"
    text = scalar(value, wanted)
    if text.lower() in _PROTOCOL_NUMBERS:
        return _PROTOCOL_NUMBERS[text.lower()]
    return integer(1, 255, what="a protocol by name or number")(text)


def ports(value: object) -> tuple[int, int]:
    """Parse "445", "5060-5061", "any" or "opaque" into wire bounds (RFC 7296 3.13.1)."""
    wanted = "a port between 0 and 65535, a range such as 5060-5061, any, or opaque"
    text = scalar(value, wanted)
    if text in ("any", "opaque"):
        return (0, 65535) if text == "any" else (65535, 0)
    first, dash, last = text.partition("-")
    low = _decimal(first.strip(), wanted)
    high = _decimal(last.strip(), wanted) if dash else low
    if not 0 <= low <= high <= 65535:
        raise ValueError(wanted)
    return low, high


def addresses(value: object) -> TrafficSelector:
    """Parse a prefix, address or range; raise ValueError, continuing "expected ...", with the cure."""
    wanted = "a prefix such as 10.1.0.0/16, an address, or a range such as 10.0.0.1-10.0.0.9"
    text = text_of(value, wanted)
    try:
        selector = from_prefix(text)
    except ValueError:
        raise ValueError(wanted + _without_host_bits(text)) from None
    if selector.version == 6 and selector.low >> 32 == selector.high >> 32 == 0xFFFF:
        raise ValueError("IPv4 addresses in their own form: packets never carry IPv4-mapped ones")
    return selector


def _without_host_bits(text: str) -> str:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return ""
    return f"; the prefix without host bits is {network}" if "%" not in text else ""


def listen_address(value: object) -> tuple[str, int]:
    """Parse "127.0.0.1:9469" or "[::1]:9469"."""
    wanted = "an address and port such as 127.0.0.1:9469 or [::1]:9469"
    text = scalar(value, wanted)
    match = re.fullmatch(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})", text, re.ASCII)
    if match is None:
        raise ValueError(wanted)
    try:
        parsed = ip_address(match["six"] or match["four"])
    except ValueError:
        raise ValueError(wanted) from None
    return str(parsed), integer(1, 65535, what="a port")(match["port"])


def path(value: object) -> str:
    """Parse an absolute file name."""
    wanted = "an absolute path such as /etc/ipsecd/secrets/hq.psk"
    text = text_of(value, wanted)
    if not text.startswith("/") or len(text) > 4095:
        raise ValueError(wanted)
    return text


def key_source(value: object) -> str:
    """Parse what names a private key: an absolute file name, or a pkcs11: URI (RFC 7512)."""
    wanted = ("an absolute path such as /etc/ipsecd/private/own.key, or a URI such as pkcs11:token=gateway;object=own"
              "?module-path=/usr/lib/softhsm/libsofthsm2.so")
    text = text_of(value, wanted)
    if not text.startswith(("/", "pkcs11:")) or len(text) > 4095:
        raise ValueError(wanted)
    return text


def mark(value: object) -> int:
    """Parse a firewall mark, decimal or hexadecimal, that is not zero."""
    wanted = "a mark between 1 and 0xffffffff, such as 0x01000000"
    text = scalar(value, wanted)
    number = int(text, 16) if _HEX.fullmatch(text) else _decimal(text, wanted)
    if not 1 <= number <= 0xFFFFFFFF:
        raise ValueError(wanted)
    return number


def takes_ports(number: int) -> bool:
    """Return whether packets of this protocol show ports."""
    return number in HAS_PORTS


def is_icmp(number: int) -> bool:
    """Return whether this is ICMP or ICMPv6."""
    return number in ICMP_PROTOCOLS
