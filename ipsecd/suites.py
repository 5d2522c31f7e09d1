"""Algorithms that ipsecd speaks: their numbers, sizes and names, and proposals written as strongSwan writes them.

"aes256gcm16-prfsha384-x25519-ke1_mlkem768" offers one IKE suite; several keywords of one kind offer alternatives in
order.  `ke1_` to `ke7_` name the additional key exchanges of RFC 9370, and `ke1_none` makes the first one optional.
What is not in these tables cannot be negotiated; wire values are looked up here and never used as an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ipsecd.ike.consts import EncrId, EsnId, IntegId, KeId, PrfId, ProtocolId, TransformType


class Transform(NamedTuple):
    """One transform as policy sees it (RFC 7296 3.3.2); `key_bits` is None where no attribute is sent."""

    type: int
    id: int
    key_bits: int | None = None


@dataclass(frozen=True, slots=True)
class Encr:
    """Sizes in bytes of an encryption algorithm (RFC 4106, 5282, 7634, 3602)."""

    keyword: str
    id: int
    key_bits: int
    key_bytes: int
    salt_bytes: int
    iv_bytes: int
    icv_bytes: int          # 0 where a separate INTEG transform makes the ICV
    block_bytes: int        # alignment of the ESP trailer: 4, or the cipher's block
    fixed_key: bool = False  # True: the Key Length attribute is not sent (RFC 7634 4)

    @property
    def aead(self) -> bool:
        """True for combined modes, which take no INTEG transform (RFC 7296 3.3)."""
        return self.icv_bytes > 0

    @property
    def transform(self) -> Transform:
        """Return the transform that offers this algorithm."""
        return Transform(TransformType.ENCR, self.id, None if self.fixed_key else self.key_bits)


@dataclass(frozen=True, slots=True)
class Prf:
    """A pseudo-random function; `size` is both preferred key and output, in bytes (RFC 4868 2.3)."""

    keyword: str
    id: int
    hash_name: str          # name for hashlib and hmac
    size: int

    @property
    def transform(self) -> Transform:
        """Return the transform that offers this PRF."""
        return Transform(TransformType.PRF, self.id)


@dataclass(frozen=True, slots=True)
class Integ:
    """An integrity algorithm; sizes in bytes (RFC 4868 2.1, RFC 4543 4 and 5.3).

    GMAC, which only AH takes, has no hash: its key ends with a salt, and the ICV field of AH begins with an IV.
    """

    keyword: str
    id: int
    hash_name: str
    key_bytes: int
    icv_bytes: int
    salt_bytes: int = 0     # of the key's end
    iv_bytes: int = 0

    @property
    def transform(self) -> Transform:
        """Return the transform that offers this algorithm."""
        return Transform(TransformType.INTEG, self.id)


def _cbc(bits: int) -> Encr:
    return Encr(f"aes{bits}", EncrId.AES_CBC, bits, bits // 8, 0, 16, 0, 16)


def _gcm(bits: int) -> Encr:
    return Encr(f"aes{bits}gcm16", EncrId.AES_GCM_16, bits, bits // 8, 4, 8, 16, 4)


ENCRS: tuple[Encr, ...] = (
    _gcm(256), _gcm(128), _gcm(192),
    Encr("chacha20poly1305", EncrId.CHACHA20_POLY1305, 256, 32, 4, 8, 16, 4, fixed_key=True),
    _cbc(256), _cbc(128), _cbc(192),
)
PRFS: tuple[Prf, ...] = (
    Prf("prfsha256", PrfId.HMAC_SHA2_256, "sha256", 32),
    Prf("prfsha384", PrfId.HMAC_SHA2_384, "sha384", 48),
    Prf("prfsha512", PrfId.HMAC_SHA2_512, "sha512", 64),
    Prf("prfsha1", PrfId.HMAC_SHA1, "sha1", 20),
)
INTEGS: tuple[Integ, ...] = (
    Integ("sha256", IntegId.HMAC_SHA2_256_128, "sha256", 32, 16),
    Integ("sha384", IntegId.HMAC_SHA2_384_192, "sha384", 48, 24),
    Integ("sha512", IntegId.HMAC_SHA2_512_256, "sha512", 64, 32),
    Integ("sha1", IntegId.HMAC_SHA1_96, "sha1", 20, 12),
)
GMACS: tuple[Integ, ...] = tuple(
    Integ(f"aes{bits}gmac", id_, "", bits // 8 + 4, 16, salt_bytes=4, iv_bytes=8)
    for bits, id_ in ((256, IntegId.AES_256_GMAC), (128, IntegId.AES_128_GMAC), (192, IntegId.AES_192_GMAC)))
KES: dict[str, int] = {
    "x25519": KeId.CURVE25519, "ecp256": KeId.ECP_256, "ecp384": KeId.ECP_384, "ecp521": KeId.ECP_521,
    "modp2048": KeId.MODP_2048, "modp3072": KeId.MODP_3072, "modp4096": KeId.MODP_4096,
    "modp6144": KeId.MODP_6144, "modp8192": KeId.MODP_8192,
    "modp1536": KeId.MODP_1536, "modp1024": KeId.MODP_1024,
}
ML_KEMS: dict[str, int] = {"mlkem768": KeId.ML_KEM_768, "mlkem1024": KeId.ML_KEM_1024}
ALIASES: dict[str, str] = {
    "curve25519": "x25519", "chacha20": "chacha20poly1305", "aes128gcm128": "aes128gcm16",
    "aes192gcm128": "aes192gcm16", "aes256gcm128": "aes256gcm16", "aes128gcm": "aes128gcm16",
    "aes192gcm": "aes192gcm16", "aes256gcm": "aes256gcm16", "aes": "aes128", "sha2_256": "sha256",
    "sha2_384": "sha384", "sha2_512": "sha512", "dh14": "modp2048", "sha": "sha1",
}
ESNS: dict[str, int] = {"esn": EsnId.ESN, "noesn": EsnId.NO_ESN}
LEGACY_KEYWORDS = frozenset({"prfsha1", "sha1", "modp1536", "modp1024"})   # only with `legacy: true`

KE_NAMES: dict[int, str] = {number: name for name, number in (KES | ML_KEMS).items()} | {KeId.NONE: "none"}
# RFC 9370 2.2.2: one transform type for each additional key exchange, in the order in which they are done.
ADDITIONAL_KES: tuple[TransformType, ...] = tuple(t for t in TransformType if t >= TransformType.ADDKE1)
_ENCR_BY_ID = {e.transform: e for e in ENCRS}
_PRF_BY_ID = {p.id: p for p in PRFS}
_INTEG_BY_ID = {i.id: i for i in (*INTEGS, *GMACS)}
_BY_KEYWORD: dict[str, Transform] = (
    {e.keyword: e.transform for e in ENCRS} | {p.keyword: p.transform for p in PRFS}
    | {i.keyword: i.transform for i in (*INTEGS, *GMACS)}
    | {name: Transform(TransformType.KE, number) for name, number in KES.items()}
    | {name: Transform(TransformType.ESN, number) for name, number in ESNS.items()}
    | {f"ke{at}_{name}": Transform(type_, number) for at, type_ in enumerate(ADDITIONAL_KES, 1)
       for number, name in KE_NAMES.items()}
)
_KEYWORD_OF = {transform: keyword for keyword, transform in _BY_KEYWORD.items()}


@dataclass(frozen=True, slots=True)
class Proposal:
    """What policy allows for one SA: transforms in order of preference inside each type (RFC 7296 3.3)."""

    protocol: int
    transforms: tuple[Transform, ...]

    def of_type(self, type_: int) -> tuple[Transform, ...]:
        """Return the transforms of one type, best first."""
        return tuple(t for t in self.transforms if t.type == type_)

    def without_ke(self) -> Proposal:
        """Return the proposal less all key exchanges: IKE_AUTH children carry none (RFC 7296 1.2)."""
        return Proposal(self.protocol, tuple(t for t in self.transforms if not is_ke(t.type)))

    def needs(self, type_: int) -> bool:
        """Return whether it demands an additional key exchange of this type: it names one, and not NONE (RFC 9370)."""
        found = self.of_type(type_)
        return bool(found) and Transform(type_, KeId.NONE) not in found

    @property
    def hybrid(self) -> bool:
        """True where it names an additional key exchange."""
        return any(t.type in ADDITIONAL_KES for t in self.transforms)

    def __str__(self) -> str:
        return "-".join(transform_name(t) for t in self.transforms)


@dataclass(frozen=True, slots=True)
class IkeSuite:
    """The algorithms chosen for one IKE SA."""

    encr: Encr
    prf: Prf
    integ: Integ | None     # None with an AEAD cipher
    ke: int
    additional: tuple[Transform, ...] = ()      # key exchanges that follow, in order; NONE is left out
    protocol: ClassVar[int] = ProtocolId.IKE

    def __str__(self) -> str:
        parts = [self.encr.keyword, self.integ.keyword if self.integ else None, self.prf.keyword, KE_NAMES[self.ke],
                 *map(transform_name, self.additional)]
        return "-".join(p for p in parts if p)


@dataclass(frozen=True, slots=True)
class EspSuite:
    """The algorithms chosen for one pair of ESP SAs; `ke` is KeId.NONE where the exchange carried no KE."""

    encr: Encr
    integ: Integ | None
    esn: bool
    ke: int = KeId.NONE
    additional: tuple[Transform, ...] = ()
    protocol: ClassVar[int] = ProtocolId.ESP

    @property
    def key_bytes(self) -> tuple[int, int]:
        """Length of the encryption key with its salt, and of the integrity key (RFC 7296 2.17)."""
        return self.encr.key_bytes + self.encr.salt_bytes, self.integ.key_bytes if self.integ else 0

    @property
    def icv_bytes(self) -> int:
        """Length of the ICV on the wire."""
        return self.integ.icv_bytes if self.integ else self.encr.icv_bytes

    def __str__(self) -> str:
        return "-".join([self.encr.keyword, *([self.integ.keyword] if self.integ else []), *_exchanges(self)])


@dataclass(frozen=True, slots=True)
class AhSuite:
    """The algorithms chosen for one pair of AH SAs (RFC 4302); the rest as in EspSuite."""

    integ: Integ
    esn: bool
    ke: int = KeId.NONE
    additional: tuple[Transform, ...] = ()
    protocol: ClassVar[int] = ProtocolId.AH

    @property
    def key_bytes(self) -> tuple[int, int]:
        """Length of the encryption key, none here, and of the integrity key with its salt."""
        return 0, self.integ.key_bytes

    def __str__(self) -> str:
        return "-".join(["ah", self.integ.keyword, *_exchanges(self)])


ChildSuite = EspSuite | AhSuite
CHILD_PROTOCOLS = (ProtocolId.ESP, ProtocolId.AH)


def _exchanges(suite: ChildSuite) -> list[str]:
    parts = [KE_NAMES[suite.ke] if suite.ke else None, *map(transform_name, suite.additional),
             "esn" if suite.esn else None]
    return [p for p in parts if p]


def is_ke(type_: int) -> bool:
    """Return whether a transform type is a key exchange, the first or an additional one."""
    return type_ == TransformType.KE or type_ in ADDITIONAL_KES


def transform_name(transform: Transform) -> str:
    """Name a transform as the configuration would, or by numbers where we do not know it."""
    known = _KEYWORD_OF.get(transform)
    if known:
        return known
    kind = {1: "encr", 2: "prf", 3: "integ", 4: "ke", 5: "esn"}.get(transform.type, f"type{transform.type}-")
    return f"{kind}{transform.id}" + (f"/{transform.key_bits}" if transform.key_bits is not None else "")


def encr_of(transform: Transform) -> Encr | None:
    """Return the cipher for a transform, None when we do not speak it or its key length."""
    return _ENCR_BY_ID.get(transform)


def prf_of(transform: Transform) -> Prf | None:
    """Return the PRF for a transform, None when we do not speak it."""
    return _PRF_BY_ID.get(transform.id) if transform.key_bits is None else None


def integ_of(transform: Transform) -> Integ | None:
    """Return the integrity algorithm for a transform, None when we do not speak it."""
    return _INTEG_BY_ID.get(transform.id) if transform.key_bits is None else None


def parse_proposal(text: str, *, protocol: int, legacy: bool = False) -> Proposal:
    """Parse "aes256gcm16-prfsha384-x25519"; raise ValueError naming the keyword and what would be right.

    IKE proposals without a PRF keyword take the PRF of each INTEG keyword, as strongSwan does.  ESP and AH proposals
    without `esn`/`noesn` offer both, ESN first.
    """
    transforms = [_keyword(word, legacy=legacy) for word in text.strip().lower().split("-")]
    types = {t.type for t in transforms}
    if protocol == ProtocolId.IKE:
        if TransformType.PRF not in types:
            names = [i.hash_name for i in INTEGS for t in transforms if t == i.transform]
            transforms += [p.transform for p in PRFS if p.hash_name in names]
        if TransformType.ESN in types:
            raise ValueError(f"{text!r}: esn and noesn belong in an ESP or AH proposal")
    else:
        if TransformType.PRF in types:
            raise ValueError(f"{text!r}: a PRF belongs in an IKE proposal")
        if TransformType.ESN not in types:
            transforms += [Transform(TransformType.ESN, EsnId.ESN), Transform(TransformType.ESN, EsnId.NO_ESN)]
    proposal = Proposal(protocol, tuple(dict.fromkeys(transforms)))
    _check_complete(proposal, text)
    return proposal


def _keyword(word: str, *, legacy: bool) -> Transform:
    name = ALIASES.get(word, word)
    transform = _BY_KEYWORD.get(name)
    if transform is None:
        if name in ML_KEMS:
            raise ValueError(f"{word!r} does not stand alone; it follows another key exchange: x25519-ke1_{name}")
        known = sorted(k for k in _BY_KEYWORD if not k.startswith("ke"))
        raise ValueError(f"unknown algorithm {word!r}; known: {', '.join(known)}; and ke1_ to ke7_ before a key "
                         f"exchange, {', '.join(ML_KEMS)} or none")
    if (name.partition("_")[2] or name) in LEGACY_KEYWORDS and not legacy:
        raise ValueError(f"{word!r} is weak; it needs `legacy: true` on this peer")
    return transform


def _check_complete(proposal: Proposal, text: str) -> None:
    if proposal.protocol == ProtocolId.AH:
        _check_ah(proposal, text)
        return
    if any(t == gmac.transform for t in proposal.transforms for gmac in GMACS):
        raise ValueError(f"{text!r}: GMAC belongs in an AH proposal; AES-GCM does both (aes256gcm16)")
    ciphers = [encr_of(t) for t in proposal.of_type(TransformType.ENCR)]
    aead = {c.aead for c in ciphers if c}
    integ = proposal.of_type(TransformType.INTEG)
    if not ciphers:
        raise ValueError(f"{text!r}: no encryption algorithm; add for example aes256gcm16")
    if len(aead) > 1:
        raise ValueError(f"{text!r}: AEAD and non-AEAD ciphers belong in separate proposals (RFC 7296 3.3)")
    if True in aead and integ:
        raise ValueError(f"{text!r}: an AEAD cipher takes no integrity algorithm; write prf... for the PRF")
    if False in aead and not integ:
        raise ValueError(f"{text!r}: this cipher needs an integrity algorithm; add for example sha256")
    if proposal.protocol == ProtocolId.IKE and not proposal.of_type(TransformType.PRF):
        raise ValueError(f"{text!r}: no PRF; add for example prfsha384")
    if (proposal.protocol == ProtocolId.IKE or proposal.hybrid) and not proposal.of_type(TransformType.KE):
        raise ValueError(f"{text!r}: no key exchange; add for example x25519")


def _check_ah(proposal: Proposal, text: str) -> None:
    if proposal.of_type(TransformType.ENCR):
        raise ValueError(f"{text!r}: AH encrypts nothing and takes no cipher; write for example sha256 or aes256gmac")
    if not proposal.of_type(TransformType.INTEG):
        raise ValueError(f"{text!r}: no integrity algorithm; add for example sha256 or aes256gmac")
    if proposal.hybrid and not proposal.of_type(TransformType.KE):
        raise ValueError(f"{text!r}: no key exchange; add for example x25519")


# RFC 9370 2.2.2: a peer that does not know additional key exchanges passes over a proposal with them, so the same
# message offers the classical ones too and costs such a peer no round trip.
DEFAULT_IKE_PROPOSALS: tuple[str, ...] = (
    "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-prfsha256-prfsha512-x25519-ecp256-ecp384-ke1_mlkem768"
    "-ke1_mlkem1024",
    "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-prfsha256-prfsha512-x25519-ecp256-ecp384-ecp521-modp2048"
    "-modp3072-modp4096",
    "aes256-aes128-sha256-sha384-sha512-prfsha256-prfsha384-prfsha512-x25519-ecp256-ecp384-ecp521-modp2048"
    "-modp3072-modp4096",
)
DEFAULT_ESP_PROPOSALS: tuple[str, ...] = (
    "aes256gcm16-aes128gcm16-chacha20poly1305-x25519-ecp256-ecp384-modp2048",
    "aes256-aes128-sha256-sha512-x25519-ecp256-ecp384-modp2048",
)
DEFAULT_AH_PROPOSALS: tuple[str, ...] = ("sha256-sha384-sha512-aes256gmac-aes128gmac-x25519-ecp256-ecp384-modp2048",)
