"""The compiled policy: what config/ makes of the YAML file and every pure layer reads.  Frozen, without defaults
drawn from anywhere; equality of two policies is what a reload compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from zlib import crc32

from ipsecd.ike.consts import IdType, ProtocolId, enum_name
from ipsecd.sa import NO_TFC, ChildKey, Tfc, Volume
from ipsecd.secret import Secret
from ipsecd.selectors import TrafficSelector
from ipsecd.suites import Proposal
from ipsecd.text import printable


class Action(StrEnum):
    """What the SPD decides (RFC 4301 4.4.1)."""

    PROTECT = "protect"
    BYPASS = "bypass"
    DISCARD = "discard"


class Start(StrEnum):
    """When a child is brought up."""

    ALWAYS = "always"
    ON_DEMAND = "on-demand"
    LISTEN = "listen"


class Mode(StrEnum):
    """RFC 4301 3.2."""

    TUNNEL = "tunnel"
    TRANSPORT = "transport"


class Encapsulation(StrEnum):
    """Whether ESP goes in UDP (RFC 3948); either is taken."""

    AUTO = "auto"                   # in UDP, unless the peer does no NAT traversal
    UDP = "udp"                     # in UDP, or not at all
    RAW = "raw"                     # without UDP, unless there is a NAT


class TsStyle(StrEnum):
    """All selectors in one child SA, or one selector pair a child SA."""

    COMBINED = "combined"
    PER_PAIR = "per-pair"


class EsnPolicy(StrEnum):
    """Extended sequence numbers: both offered and either accepted, or only one."""

    AUTO = "auto"
    YES = "yes"
    NO = "no"


class Pfs(StrEnum):
    """Key exchange in CREATE_CHILD_SA: offered and accepted either way, demanded, or never offered."""

    OFFER = "offer"
    REQUIRED = "required"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Identity:
    """An identification (RFC 7296 3.5): type and data as on the wire; `text` is how the operator wrote it."""

    type: int
    data: bytes
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.text:
            return self.text
        if self.type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR) and len(self.data) in (4, 16):
            return str(ip_address(self.data))
        if self.type in (IdType.FQDN, IdType.RFC822_ADDR):
            return printable(self.data)
        if self == NOBODY:
            return "nobody"
        return f"{enum_name(IdType, self.type)}:{self.data[:32].hex()}"


@dataclass(frozen=True, slots=True)
class IdentityPattern:
    """Identities that one entry serves (ike.pad): a host name with one label open, mailboxes of a host, a
    distinguished name with values open, or, with `type` None, whatever a certificate proves.
    """

    type: int | None
    suffix: bytes = b""                                 # lower case, from the "." or "@" on
    rdns: tuple[tuple[str, str | None], ...] = ()       # attribute by its dotted name, and its value; None is any
    text: str = field(default="", compare=False)


NOBODY = Identity(IdType.NULL, b"")   # RFC 7619 2.2: who uses NULL authentication


class Revocation(StrEnum):
    """What becomes of a certificate whose authority says nothing about its revocation that is still current."""

    STRICT = "strict"               # it is refused
    IF_AVAILABLE = "if-available"   # it is taken; a revoked one is refused
    OFF = "off"                     # it is not asked


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A private key that stays in its token (PKCS #11); `kinds` are the ways in which the token signs, among
    "rsa-pss", "rsa-pkcs1", "ecdsa" and "eddsa".

    `sign` takes one of them, a hash ("sha256", empty with "eddsa") and what to sign.  It takes as long as the token
    does, and raises TokenError with the reason where it fails.
    """

    uri: str
    public_key: bytes               # SubjectPublicKeyInfo
    kinds: frozenset[str]
    sign: Callable[[str, str, bytes], bytes] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """Our own certificate: DER, ours first and then those between it and the authority; and its key, in PKCS#8 or in
    a token.

    `raw` where the chain is the bare SubjectPublicKeyInfo instead (RFC 7670).
    """

    chain: tuple[bytes, ...]
    private_key: Secret | TokenKey
    raw: bool = False
    issuer_hashes: tuple[bytes, ...] = ()       # of the authorities above it that we know, as CERTREQ names them
    issuer: bytes = b""             # the one that signed it, where we know it


@dataclass(frozen=True, slots=True)
class RawKeys:
    """The public keys by any of which a peer proves itself, as SubjectPublicKeyInfo in DER (RFC 7670)."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NullAuth:
    """That side proves nothing but that it made the key exchange, and has no name (RFC 7619)."""


@dataclass(frozen=True, slots=True)
class CertificateTrust:
    """What a peer's certificate must satisfy; certificates, CRLs and names in DER."""

    authorities: tuple[bytes, ...]
    authority_hashes: tuple[bytes, ...]         # SHA-1 of their public keys, as CERTREQ names them
    intermediates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    issuer: bytes | None = None     # the name of an authority that must be in the chain
    revocation: Revocation = Revocation.IF_AVAILABLE
    any_purpose: bool = False       # take certificates that were issued for TLS and the like


@dataclass(frozen=True, slots=True)
class AuthPolicy:
    """How each side proves who it is (RFC 4301 4.4.3.2); None stands for the pre-shared key of the peer entry."""

    local: Credential | NullAuth | None = None
    remote: CertificateTrust | RawKeys | NullAuth | None = None
    legacy: bool = False            # RSA signatures with SHA-1, toward peers without RFC 7427
    others: tuple[Credential, ...] = ()     # ours in place of `local`, where the peer asks for their authorities

    @property
    def unread(self) -> bool:
        """Whether files that it names were not read, as for a plan (config.secrets)."""
        return (isinstance(self.local, Credential) and not self.local.chain) or (
            isinstance(self.remote, CertificateTrust) and not self.remote.authorities) or (
            isinstance(self.remote, RawKeys) and not self.remote.keys)


@dataclass(frozen=True, slots=True)
class Ppk:
    """A post-quantum pre-shared key, which both ends hold beside what proves them (RFC 8784)."""

    id: bytes                       # how the initiator names it, PPK_ID_FIXED
    key: Secret
    required: bool                  # no IKE SA without it; else a peer that has none gets one


@dataclass(frozen=True, slots=True)
class IkePolicy:
    """How the IKE SA with a peer is made and kept; times in seconds."""

    proposals: tuple[Proposal, ...]
    lifetime_s: float
    dpd_s: float
    dpd_timeout_s: float
    fragment_bytes: int             # largest IP datagram of an IKE fragment; 0 never fragments
    childless: str                  # "allow" or "prefer" (RFC 6023)
    unique: str                     # other IKE SAs of the same identity: "replace", "keep", "never" or "reject"
    init_timeout_s: float
    request_timeout_s: float
    reauth_s: float = 0.0           # after which we authenticate anew; 0 never does
    crash_detection: bool = True    # RFC 6290
    resumption: bool = False        # RFC 5723
    mobike: bool = False            # RFC 4555
    return_routability: bool = True  # RFC 4555 3.7: traffic moves to an address only after the peer answered there
    redirect: bool = False          # RFC 5685: go where the peer sends us
    redirect_to: tuple[str, ...] = ()   # to these alone, as REDIRECT names them; empty: to any
    probe_path: bool = True         # find the size of the path by probing (RFC 8899)
    path_mtu: int = 0               # largest IP datagram of ESP, in bytes; 0: what the route takes, or probing finds


@dataclass(frozen=True, slots=True)
class ChildPolicy:
    """One configured child: its selectors in order and how its SAs are made."""

    key: ChildKey
    local: tuple[TrafficSelector, ...]
    remote: tuple[TrafficSelector, ...]
    mode: Mode
    start: Start
    ts_style: TsStyle
    proposals: tuple[Proposal, ...]
    pfs: Pfs
    lifetime_s: float
    volume: Volume
    replay_window: int
    esn: EsnPolicy
    interface: str | None = None    # ingress interface: such a child gets a TUN and table of its own
    tfc: Tfc = NO_TFC

    @property
    def protocol(self) -> int:
        """ESP or AH, which all its proposals are for."""
        return self.proposals[0].protocol if self.proposals else ProtocolId.ESP


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """One entry of the PAD (RFC 4301 4.4.3) with its children.

    `addresses` are names or addresses in the order tried, empty for "any, listen only".  A `None` identity means
    the address used.  With a `pattern` it serves many remotes; each is an instance of it, whose `entry` names it.
    """

    name: str
    enabled: bool
    addresses: tuple[str, ...]
    local_identity: Identity | None
    remote_identity: Identity | None
    psk: Secret
    ike: IkePolicy
    children: tuple[ChildPolicy, ...]
    auth: AuthPolicy = AuthPolicy()
    ppk: Ppk | None = None
    pattern: IdentityPattern | None = None
    entry: str = ""
    encapsulation: Encapsulation = Encapsulation.AUTO
    _by_name: Mapping[str, ChildPolicy] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {child.key.child: child for child in self.children})

    @property
    def serves_many(self) -> bool:
        """Whether remotes are told apart within this entry, which then only listens."""
        return self.pattern is not None or (self.remote_identity == NOBODY and not self.addresses and not self.entry)

    @property
    def tells_nat(self) -> bool:
        """Whether NAT detection says the truth of our address, for what goes without UDP (ike.tasks.nat_detection)."""
        return self.encapsulation is Encapsulation.RAW or any(c.protocol == ProtocolId.AH for c in self.children)

    def child(self, name: str) -> ChildPolicy | None:
        """Return a child by name."""
        return self._by_name.get(name)


@dataclass(frozen=True, slots=True)
class SpdEntry:
    """One entry of the ordered SPD (RFC 4301 4.4.1); `child` is set for protect entries only."""

    name: str
    action: Action
    local: tuple[TrafficSelector, ...]
    remote: tuple[TrafficSelector, ...]
    child: ChildKey | None = None
    interface: str | None = None    # ingress interface of forwarded packets


MAX_DEVICE_NAME = 15                # IFNAMSIZ less its zero
INTERFACE_TABLES = 1_000_000        # tables from `interface_tables` on that interface selectors draw from


@dataclass(frozen=True, slots=True)
class RoutingDomain:
    """Every number that another program on the host might also want to use (docs/architecture.md, "Routing")."""

    device: str = "ipsec0"
    protected_table: int = 7710
    wide_table: int = 7711
    priority: int = 7700
    own_mark: int = 0x01000000
    bypass_mark: int = 0x02000000
    mask: int = 0x03000000
    protocol: int = 77
    nft_table: str = "ipsecd"
    interface_tables: int = 77_000_000

    def device_for(self, interface: str | None) -> str:
        """Return the TUN device of what enters by an interface, None for that of everything else.

        It follows from the two names alone, so that a reload that adds or removes another interface moves nothing.
        """
        if interface is None:
            return self.device
        name = f"{self.device}.{interface}"
        return name if len(name) <= MAX_DEVICE_NAME else f"{self.device[:6]}.{crc32(name.encode()):08x}"

    def table_for(self, interface: str) -> int:
        """Return the routing table of what enters by an interface, as stable as its device."""
        return self.interface_tables + crc32(f"{self.device}.{interface}".encode()) % INTERFACE_TABLES

    def owns_table(self, table: int) -> bool:
        """Return whether routes of ours may be in a table."""
        return (table in (self.protected_table, self.wide_table)
                or 0 <= table - self.interface_tables < INTERFACE_TABLES)


@dataclass(frozen=True, slots=True)
class Policy:
    """All that one configuration says, compiled.  `entries` is the whole SPD in order."""

    listen: tuple[str, ...]         # empty: every address
    peers: tuple[PeerPolicy, ...]
    entries: tuple[SpdEntry, ...]
    default_action: Action
    domain: RoutingDomain
    inside: tuple[str, ...]         # interfaces that lead to protected hosts
    exclude: tuple[str, ...]        # interfaces whose addresses are never used outside
    cookie_threshold: int
    source_limit: int               # half-open SAs a source may hold once it proved a cookie

    @property
    def protected_interfaces(self) -> tuple[str, ...]:
        """The ingress interfaces that protect entries select by, sorted: each has a device and table of its own."""
        return tuple(sorted({e.interface for e in self.entries if e.action is Action.PROTECT and e.interface}))

    def peer(self, name: str) -> PeerPolicy | None:
        """Return a peer entry by name."""
        return next((p for p in self.peers if p.name == name), None)
