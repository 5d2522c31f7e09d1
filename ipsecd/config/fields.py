"""The types of the configuration's keys: how each is parsed (values.py) and what an editor's schema says of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from ipsecd.config import defaults, values
from ipsecd.config.identity import parse_identity, parse_peer_identity
from ipsecd.ike.consts import ProtocolId
from ipsecd.policy import (
    Action,
    Encapsulation,
    EsnPolicy,
    Identity,
    IdentityPattern,
    Mode,
    Pfs,
    Revocation,
    Start,
    TsStyle,
)
from ipsecd.secret import Secret
from ipsecd.selectors import TrafficSelector
from ipsecd.suites import parse_proposal

ACTIONS = (Action.BYPASS, Action.DISCARD)
CHILDLESS = ("allow", "prefer")
UNIQUE = ("replace", "keep", "never", "reject")
PATH_MTU_WORDS = ("auto", "route")
POST_QUANTUM = ("preferred", "required")
ENGINES = ("auto", "native", "python", "reference")
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "json", "text")
METHODS = ("psk", "certificate", "public-key", "null-auth")

PAD_RANDOMLY = -1                                  # `pad_to: random`


def _form(value: str, *types: str, pattern: str | None = None) -> WithJsonSchema:
    """Say what a value looks like: `value` for people, types and pattern for editors."""
    schema: dict[str, Any] = {"type": types[0] if len(types) == 1 else list(types), "x-value": value}
    return WithJsonSchema(schema | ({"pattern": pattern} if pattern else {}))


def _enum(words: Iterable[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": [str(w) for w in words]})


def one_or_many(value: object) -> object:
    """Let one value stand for a list of one."""
    return [value] if isinstance(value, str) and value else value


def _identity(value: object) -> Identity:
    return parse_identity(values.text_of(value, "an identity"))


def _peer_identity(value: object) -> Identity | IdentityPattern:
    return parse_peer_identity(values.text_of(value, "an identity"))


def _proposal(protocol: ProtocolId) -> BeforeValidator:
    def parse(value: object) -> str:
        text = values.text_of(value, "a proposal such as aes256gcm16-prfsha384-x25519")
        try:
            parse_proposal(text, protocol=protocol, legacy=True)
        except ValueError as error:
            raise ValueError(f"a proposal: {error}") from None
        return text
    return BeforeValidator(parse)


def selector_mapping(value: object) -> object:
    """Let a prefix stand for a mapping that holds only it."""
    if not isinstance(value, str):
        return value
    return {"prefix": value}


def auth_mapping(value: object) -> object:
    """Let `auth: certificate` stand for certificates on both sides."""
    return {"local": value, "remote": value} if value == "certificate" else value


def _fragmentation(value: object) -> int:
    if value == "off":
        return 0
    return values.integer(defaults.MIN_FRAGMENT_BYTES, 65535, what="off, or bytes of a datagram,")(value)


def _redirect(value: object) -> bool | tuple[str, ...]:
    wanted = "true, false, or the addresses and names of gateways"
    if isinstance(value, list):
        if not 1 <= len(value) <= defaults.MAX_ADDRESSES:           # pyright: ignore[reportUnknownArgumentType]
            raise ValueError(f"{wanted}, 1 to {defaults.MAX_ADDRESSES} of them")
        return tuple(values.host(item).lower().removesuffix(".") for item in value)  # pyright: ignore
    if isinstance(value, str) and ("." in value or ":" in value):   # a single word is a mistyped true
        return (values.host(value).lower().removesuffix("."),)
    return values.boolean(value)


def _path_mtu(value: object) -> int | str:
    if value in PATH_MTU_WORDS:
        return str(value)
    return values.integer(defaults.MIN_FRAGMENT_BYTES, 65535, what="auto, route, or bytes of a datagram,")(value)


def _pad_to(value: object) -> int:
    if value == "random":
        return PAD_RANDOMLY
    return values.integer(defaults.MIN_PAD_TO, defaults.MAX_PAD_TO, what="random, or a number of bytes,")(value)


def _inline_secret(value: object) -> Secret:
    return Secret(values.scalar(value, "a pre-shared key").encode())


def _key_name(value: object) -> str:
    wanted = f"a name of at most {defaults.MAX_KEY_NAME} printable ASCII characters"
    text = values.text_of(value, wanted)
    if len(text) > defaults.MAX_KEY_NAME or not (text.isascii() and text.isprintable()):
        raise ValueError(wanted)
    return text


_TIME = _form("time", "string", "number", pattern=r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)?$")
_SIZE = _form("size", "string", "integer", pattern=r"^[0-9]+(\.[0-9]+)? ?([kKMGT]?i?B)?$")
_NUMBER = _form("number", "integer", "string")
_INTERFACE = _form("interface", "string", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$")

Name = Annotated[str, BeforeValidator(values.name), _form("name", "string")]
KeyName = Annotated[str, BeforeValidator(_key_name), _form("text", "string")]
FilePath = Annotated[str, BeforeValidator(values.path), _form("absolute path", "string", pattern="^/")]
KeySource = Annotated[str, BeforeValidator(values.key_source), _form(
    "absolute path or pkcs11: URI", "string", pattern="^(/|pkcs11:)")]
Interface = Annotated[str, BeforeValidator(values.interface), _INTERFACE]
Address = Annotated[str, BeforeValidator(values.address), _form("IP address", "string")]
Host = Annotated[str, BeforeValidator(values.host), _form("IP address or DNS name", "string")]
IdentityValue = Annotated[Identity, BeforeValidator(_identity), _form("identity", "string")]
PeerIdentityValue = Annotated[
    Identity | IdentityPattern, BeforeValidator(_peer_identity), _form("identity or pattern", "string")]
Bool = Annotated[bool, BeforeValidator(values.boolean), _form("true, false", "boolean")]
Redirect = Annotated[bool | tuple[str, ...], BeforeValidator(_redirect), _form(
    "true, false, or list of IP addresses and DNS names", "boolean", "string", "array")]
IkeLifetime = Annotated[
    float, BeforeValidator(values.duration(defaults.MIN_LIFETIME_S, defaults.MAX_IKE_LIFETIME_S)), _TIME]
ReauthTime = Annotated[
    float, BeforeValidator(values.duration(defaults.MIN_LIFETIME_S, defaults.MAX_REAUTH_S)), _TIME]
ChildLifetime = Annotated[
    float, BeforeValidator(values.duration(defaults.MIN_LIFETIME_S, defaults.MAX_CHILD_LIFETIME_S)), _TIME]
Timer = Annotated[float, BeforeValidator(values.duration(defaults.MIN_TIMER_S, defaults.MAX_TIMER_S)), _TIME]
Bytes = Annotated[int, BeforeValidator(values.size(1, defaults.MAX_VOLUME)), _SIZE]
Packets = Annotated[int, BeforeValidator(values.integer(1, defaults.MAX_VOLUME, what="a number of packets")), _NUMBER]
Window = Annotated[
    int, BeforeValidator(values.integer(0, defaults.MAX_REPLAY_WINDOW, what="a window in packets")), _NUMBER]
Fragmentation = Annotated[int, BeforeValidator(_fragmentation), _form("number or off", "integer", "string")]
PathMtu = Annotated[
    int | str, BeforeValidator(_path_mtu), _form("auto, route or number", "integer", "string")]
IkeProposal = Annotated[str, _proposal(ProtocolId.IKE), _form("proposal", "string")]
AhProposal = Annotated[str, _proposal(ProtocolId.AH), _form("proposal", "string")]
EspProposal = Annotated[str, _proposal(ProtocolId.ESP), _form("proposal", "string")]
PadTo = Annotated[int, BeforeValidator(_pad_to), _form("number or random", "integer", "string")]
Dummies = Annotated[
    int, BeforeValidator(values.integer(0, defaults.MAX_DUMMIES_PER_S, what="a number of packets a second")), _NUMBER]
Mark = Annotated[int, BeforeValidator(values.mark), _form("number, decimal or 0x", "integer", "string")]
Table = Annotated[int, BeforeValidator(values.integer(1, 2**32 - 1, what="a routing table")), _NUMBER]
Limit = Annotated[
    int, BeforeValidator(values.integer(1, defaults.MAX_HALF_OPEN_SETTING, what="a number")), _NUMBER]
Priority = Annotated[int, BeforeValidator(values.integer(1, 32700, what="a rule priority")), _NUMBER]
RouteProtocol = Annotated[int, BeforeValidator(values.integer(5, 255, what="a route protocol number")), _NUMBER]
IcmpNumber = Annotated[int, BeforeValidator(values.integer(0, 255, what="an ICMP number")), _NUMBER]
Protocol = Annotated[int, BeforeValidator(values.protocol), _form("name or number", "integer", "string")]
Ports = Annotated[tuple[int, int], BeforeValidator(values.ports), _form("port or range", "integer", "string")]
Prefixes = Annotated[TrafficSelector, BeforeValidator(values.addresses), _form("prefix, address or range", "string")]
ListenAddress = Annotated[tuple[str, int], BeforeValidator(values.listen_address), _form("address:port", "string")]
InlineSecret = Annotated[Secret, BeforeValidator(_inline_secret), _form("secret", "string")]
EncapsulationWord = Annotated[str, BeforeValidator(values.choice(Encapsulation)), _enum(Encapsulation)]
StartWord = Annotated[str, BeforeValidator(values.choice(Start)), _enum(Start)]
ModeWord = Annotated[str, BeforeValidator(values.choice(Mode)), _enum(Mode)]
TsStyleWord = Annotated[str, BeforeValidator(values.choice(TsStyle)), _enum(TsStyle)]
EsnWord = Annotated[str, BeforeValidator(values.choice(EsnPolicy)), _enum(EsnPolicy)]
PfsWord = Annotated[str, BeforeValidator(values.choice(Pfs)), _enum(Pfs)]
ActionWord = Annotated[str, BeforeValidator(values.choice(ACTIONS)), _enum(ACTIONS)]
ChildlessWord = Annotated[str, BeforeValidator(values.choice(CHILDLESS)), _enum(CHILDLESS)]
MethodWord = Annotated[str, BeforeValidator(values.choice(METHODS)), _enum(METHODS)]
RevocationWord = Annotated[str, BeforeValidator(values.choice(Revocation)), _enum(Revocation)]
PostQuantumWord = Annotated[str, BeforeValidator(values.choice(POST_QUANTUM)), _enum(POST_QUANTUM)]
UniqueWord = Annotated[str, BeforeValidator(values.choice(UNIQUE)), _enum(UNIQUE)]
EngineWord = Annotated[str, BeforeValidator(values.choice(ENGINES)), _enum(ENGINES)]
LevelWord = Annotated[str, BeforeValidator(values.choice(LEVELS)), _enum(LEVELS)]
FormatWord = Annotated[str, BeforeValidator(values.choice(FORMATS)), _enum(FORMATS)]
