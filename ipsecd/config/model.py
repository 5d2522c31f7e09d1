"""The keys of the configuration: names, forms, bounds, and what each means.

docs/configuration.md and docs/ipsecd.schema.json are generated from these models.  A value of `None` means "not
said": compile.py then takes `defaults:` and after it defaults.py.  Nothing of this module enters the core.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ipsecd.config import defaults as d
from ipsecd.config import fields as f
from ipsecd.config.values import show_s
from ipsecd.suites import DEFAULT_AH_PROPOSALS, DEFAULT_ESP_PROPOSALS, DEFAULT_IKE_PROPOSALS


def _key(description: str, default: object = None, unit: str | None = None) -> Any:
    """Describe a key; `default` and `unit` are for the generated documents, the model itself holds None."""
    return Field(default=None, description=description, json_schema_extra={"x-default": default, "x-unit": unit})  # type: ignore[dict-item]


class Keys(BaseModel):
    """Base of all mappings: unknown keys are errors, and no message repeats a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)


class SelectorKeys(Keys):
    """One traffic selector; a bare prefix, address or range stands for `{prefix: ...}`."""

    prefix: f.Prefixes | None = _key("Addresses as a prefix, one address, or a range \"10.0.0.1-10.0.0.9\"; host bits "
                                     "must be zero. Quote IPv6 addresses that begin or end with `::`.")
    range: f.Prefixes | None = _key("The same as `prefix`, for ranges: \"10.0.0.1-10.0.0.9\". One of both is given.")
    protocol: f.Protocol | None = _key("Next-layer protocol, by name (tcp, udp, icmp, ipv6-icmp, sctp) or number.",
                                            "any")
    port: f.Ports | None = _key("Port or range `5060-5061`; `opaque` selects packets that show no ports. Needs a "
                                "protocol that has ports.", "any")
    icmp_type: f.IcmpNumber | None = _key("ICMP type; needs `protocol: icmp` or `ipv6-icmp`.", "any")
    icmp_code: f.IcmpNumber | None = _key("ICMP code; needs `icmp_type`.", "any")


Selector = Annotated[SelectorKeys, BeforeValidator(f.selector_mapping)]
Selectors = Annotated[list[Selector], BeforeValidator(f.one_or_many),
                      Field(min_length=1, max_length=d.MAX_SELECTORS)]


Files = Annotated[list[f.FilePath], BeforeValidator(f.one_or_many)]


class MarkKeys(Keys):
    """Bits of the firewall mark that ipsecd uses (nft and `ip rule`)."""

    own: f.Mark | None = _key("Mark of the gateway's own IKE and ESP packets.", "0x01000000")
    bypass: f.Mark | None = _key("Mark of packets that a bypass entry lets pass.", "0x02000000")
    mask: f.Mark | None = _key("The bits that both marks lie in; other bits belong to other programs.", "0x03000000")


class TableKeys(Keys):
    """Routing tables; no other program may use them, and 253 to 255 are the kernel's own."""

    protected: f.Table | None = _key("Table of the remote selectors.", 7710)
    wide: f.Table | None = _key("Table of remote selectors as wide as a default route, for packets from local "
                                "selectors only.", 7711)
    interfaces: f.Table | None = _key("First of 1,000,000 tables; each `interface` that children select by has one of "
                                      "them, which follows from its name.", 77_000_000)


class CertificateKeys(Keys):
    """One more certificate of ours.  Its authority is in `authorities` or `intermediates`, or its own file."""

    certificate: f.FilePath = Field(description="As in `gateway`. Required.")
    private_key: f.KeySource = Field(description="As in `gateway`. Required.")
    passphrase_file: f.FilePath | None = _key("As in `gateway`.")


class GatewayKeys(Keys):
    """The gateway itself: who it is and where it stands."""

    identity: f.IdentityValue | None = _key("What we present to peers: DNS name, address, e-mail address, "
                                            "\"dn:C=..., CN=...\" or \"keyid:...\".", "the address used")
    interface: f.Interface | None = _key("Name of the TUN device. It persists when the daemon stops.", d.INTERFACE)
    listen: Annotated[list[f.Address], BeforeValidator(f.one_or_many)] | None = _key(
        "Local addresses for IKE and ESP, UDP ports 500 and 4500.", "every address")
    inside: Annotated[list[f.Interface], BeforeValidator(f.one_or_many)] | None = _key(
        "Interfaces that lead to protected hosts, in addition to those that hold an address of a local selector: a "
        "decrypted packet leaves by these only.", "none")
    exclude: Annotated[list[f.Interface], BeforeValidator(f.one_or_many)] | None = _key(
        "Interfaces whose addresses are never used outside.", "none")
    mark: MarkKeys | None = _key("Firewall marks.")
    tables: TableKeys | None = _key("Routing tables.")
    priority: f.Priority | None = _key("Priority of the first `ip rule`; the next ten are used too.", 7700)
    route_protocol: f.RouteProtocol | None = _key("Protocol number that our routes and rules carry.", 77)
    state: f.FilePath | None = _key(
        "Directory of the last accepted policy, from which the guard is put up at boot, and of fetched revocation "
        "lists. By default it follows from "
        "control.socket: /run/ipsecd/NAME.sock gives /var/lib/ipsecd/NAME, any other NAME.sock gives NAME.state.",
        "/var/lib/ipsecd/control")
    engine: f.EngineWord | None = _key(
        "Data plane: `native` is compiled and runs in threads of its own, `python` (also `reference`) needs no "
        "compiler. `auto` takes the native one where it was built and passes its self test. Changed at a restart.",
        "auto")
    cookie_threshold: f.Limit | None = _key("Half-open IKE SAs in all from which cookies are demanded.",
                                            d.COOKIE_THRESHOLD, "IKE SAs")
    source_limit: f.Limit | None = _key("Half-open IKE SAs that one source may hold once it proved a cookie: many "
                                        "tunnels behind one NAT must come up.", d.SOURCE_LIMIT, "IKE SAs")
    certificate: f.FilePath | None = _key("Our certificate, in PEM or DER, then those between it and the authority. It "
                                          "must name the identity that we present.")
    private_key: f.KeySource | None = _key(
        "Its private key, in PEM or DER; the file is owned and protected as `psk_file` is. Or a key that stays in its "
        "PKCS #11 token, by URI (RFC 7512): `pkcs11:token=gateway;object=own?module-path=/usr/lib/x.so` with `token`, "
        "`serial`, `object` and `id`; it signs once at each load. Of a bare key the token holds the public half too, "
        "under the same names. Needs python-pkcs11 (`ipsecd[pkcs11]`).")
    passphrase_file: f.FilePath | None = _key("File with the passphrase of the private key, or the PIN of its token, "
                                              "protected likewise.")
    more_certificates: list[CertificateKeys] | None = _key(
        "Certificates of ours below other authorities, for the same identity: a peer that asks for one of those "
        "authorities (CERTREQ) gets the first that fits, any other peer `certificate`. A certificate in a peer's "
        "`auth` stands alone.")
    authorities: Files | None = _key("Files or directories (*.pem, *.crt, *.cer, *.der) of the authorities that are "
                                     "trusted to name peers.")
    intermediates: Files | None = _key("Files or directories of authorities between those and the peers, for peers "
                                       "that do not send them. They are not trusted by themselves.")
    crls: Files | None = _key("Files or directories of certificate revocation lists, read at start and reload.")


class IkeKeys(Keys):
    """How the IKE SA with a peer is made and kept."""

    proposals: Annotated[list[f.IkeProposal], BeforeValidator(f.one_or_many),
                         Field(min_length=1, max_length=d.MAX_PROPOSALS)] | None = _key(
        "Suites offered and accepted, best first, written as in strongSwan.", list(DEFAULT_IKE_PROPOSALS))
    post_quantum: f.PostQuantumWord | None = _key(
        "`required`: an IKE SA without an ML-KEM key exchange (`ke1_mlkem768`) is refused; proposals without one are "
        "neither offered nor accepted. `preferred`: the proposals decide.", d.POST_QUANTUM)
    lifetime: f.IkeLifetime | None = _key("The IKE SA is rekeyed after this, +-10 %; it ends 10 % (at least 180 s) "
                                          "later. 1 s to 24 h; warned under 5 min.", show_s(d.IKE_LIFETIME_S), "time")
    dpd: f.Timer | None = _key("Without authenticated traffic from the peer for this long, it is asked whether it "
                               "lives.", show_s(d.DPD_S), "time")
    dpd_timeout: f.Timer | None = _key("Without an answer for this long, it is taken for dead and the tunnel built "
                                       "anew.", show_s(d.DPD_TIMEOUT_S), "time")
    fragmentation: f.Fragmentation | None = _key("Largest IP datagram of a fragmented IKE message (RFC 7383), or "
                                                 "`off`.", d.FRAGMENT_BYTES, "bytes")
    childless: f.ChildlessWord | None = _key("IKE SA without a first child (RFC 6023): accept it, or prefer to make "
                                             "it so.", d.CHILDLESS)
    reauth_time: f.ReauthTime | None = _key(
        "Both ends prove themselves anew after this, +-10 %: a new IKE SA with new children is made before the old one "
        "is deleted, which ends 10 % (at least 180 s) later in any case. A peer without an `address`, which we cannot "
        "call, is told the time and comes back by itself (RFC 4478); where it does not, it is cut off then.", "never",
        "time")
    unique: f.UniqueWord | None = _key(
        "A new IKE SA of the same identity replaces the old one; is kept beside it, unless the peer says that it knows "
        "no other (INITIAL_CONTACT); is kept even then; or is refused while the old one lives.", d.UNIQUE)
    init_timeout: f.Timer | None = _key("One IKE_SA_INIT attempt ends after this; the next address follows.",
                                        show_s(d.INIT_TIMEOUT_S), "time")
    request_timeout: f.Timer | None = _key("Any other request without answer ends the IKE SA after this.",
                                           show_s(d.REQUEST_TIMEOUT_S), "time")
    path_mtu: f.PathMtu | None = _key(
        "Largest IP datagram around ESP to the peer: `auto` finds it by probing (RFC 8899), never above what the "
        "host's own route takes; `route` takes the route's; or a number, which the route still bounds.", "auto",
        "bytes")
    crash_detection: f.Bool | None = _key("Exchange tokens by which a restarted end shows at once that it lost its "
                                          "IKE SAs (RFC 6290); counts from the next IKE SA on.", default=True)
    resumption: f.Bool | None = _key("Take an IKE SA that was lost up again by a ticket, without a key exchange and "
                                     "the proofs of `auth` (RFC 5723). For head-ends that get thousands of peers back "
                                     "at once; tickets end with a restart, a reload that changes the peer, a Delete.",
                                     default=False)
    mobike: f.Bool | None = _key("When an address changes, move the IKE SA and its children to another one instead of "
                                 "making them anew (MOBIKE, RFC 4555); counts from the next IKE SA on.", default=True)
    return_routability: f.Bool | None = _key("Traffic follows a peer to another address only after the peer answered "
                                             "there. Without, a peer could direct it at others.", default=True)


    redirect: f.Redirect | None = _key(
        "Go to another gateway where the peer sends us (RFC 5685): to any, or to those of a list, written as the peer "
        "names them. That gateway must prove the same `identity`, which has to stand in the entry. At most 5 times in "
        "5 min; when the other gateway fails, the peer's own `address` is tried again.", default=False)


class ProtectionKeys(Keys):
    """What ESP and AH have in common."""

    replay_window: f.Window | None = _key("Anti-replay window, 64 to 8192; 0 switches the check off, is warned "
                                          "about, and may stand in a child only.", d.REPLAY_WINDOW, "packets")
    esn: f.EsnWord | None = _key("Extended sequence numbers: offer both and accept either, or only one.", "auto")
    pfs: f.PfsWord | None = _key("Key exchange when a child is created or rekeyed: offered and accepted with or "
                                 "without, demanded, or never.", "offer")
    lifetime_bytes: f.Bytes | None = _key("The child is rekeyed after this much traffic in one direction; it ends "
                                          "10 % later.", "no limit", "bytes")
    lifetime_packets: f.Packets | None = _key("The same in packets.", "no limit", "packets")


class EspKeys(ProtectionKeys):
    """How a child's ESP SAs are made."""

    proposals: Annotated[list[f.EspProposal], BeforeValidator(f.one_or_many),
                         Field(min_length=1, max_length=d.MAX_PROPOSALS)] | None = _key(
        "Suites offered and accepted, best first.", list(DEFAULT_ESP_PROPOSALS))


class AhKeys(ProtectionKeys):
    """How a child's AH SAs are made (RFC 4302), in place of ESP: nobody on the way changes or forges a packet.

    **AH encrypts nothing**: everybody on the way can read what it carries. It goes as IP protocol 51, never in UDP, and
    cannot pass a NAT: where one is found the child is refused. In transport mode the headers that it
    covers are the packet's own, with their options. NAT detection toward such a peer is honest, which the responder can
    be only to an address it knows: the peer needs `address`.
    """

    proposals: Annotated[list[f.AhProposal], BeforeValidator(f.one_or_many),
                         Field(min_length=1, max_length=d.MAX_PROPOSALS)] | None = _key(
        "Suites offered and accepted, best first: sha256, sha384, sha512, aes128gmac, aes192gmac, aes256gmac and key "
        "exchanges, no cipher.", list(DEFAULT_AH_PROPOSALS))


class TfcKeys(Keys):
    """Traffic flow confidentiality of what we send (RFC 4303 2.6, 2.7): what the network cannot read, it can count and
    measure.  Nothing of it toward a peer that says that it takes no padding.
    """

    pad_to: f.PadTo | None = _key(
        "Packets are padded to a multiple of so many bytes, or to a `random` size, and never beyond what the path "
        "carries; with a number above that, all are as large. In tunnel mode only.", "none", "bytes")
    dummies_per_s: f.Dummies | None = _key(
        "So many packets a second, at random gaps, that the peer discards: as large as `pad_to`, or of random size.", 0)


class ChildDefaults(Keys):
    """What children share."""

    mode: f.ModeWord | None = _key("`tunnel`: whole packets, between sites. `transport`: only what this host "
                                   "and the peer send each other; `local` and `remote` are then their two addresses, "
                                   "as each end sees them. A peer that does not agree gets no child.", "tunnel")
    start: f.StartWord | None = _key("Brought up at start and kept up; at the first packet; or only by the peer.",
                                     "always; listen without `address`")
    ts_style: f.TsStyleWord | None = _key("All selectors in one SA, or one selector pair an SA (FortiGate, "
                                          "Cloudflare, Junos).", "combined")
    lifetime: f.ChildLifetime | None = _key("The child is rekeyed after this, +-10 %; it ends 10 % (at least 180 s) "
                                            "later. 1 s to 8 h; warned under 5 min.",
                                            show_s(d.CHILD_LIFETIME_S), "time")
    esp: EspKeys | None = _key("ESP.")
    tfc: TfcKeys | None = _key("Traffic flow confidentiality.")


class ChildKeys(ChildDefaults):
    """One child: which traffic is protected, and how."""

    local: Selectors = Field(description="Addresses behind this gateway. Required.")
    remote: Selectors = Field(description="Addresses behind the peer. Required; every address family on one side "
                                          "must be on the other.")
    interface: f.Interface | None = _key(
        "Only packets forwarded from this interface, never the gateway's own; others fall to the next entry. They get "
        "a table of their own and a TUN device, named for both interfaces: `ipsec0.lan1`, or `ipsec0.1a2b3c4d` where "
        "that would be over 15 characters.", "any")
    ah: AhKeys | None = _key("AH in place of ESP, for this child: **nothing is encrypted**. Not beside `esp`.")


class AuthKeys(Keys):
    """A pre-shared key (exactly one of psk_file, psk_credential and psk), certificates, bare public keys, or one of
    these for each direction.

    `auth: certificate` stands for certificates on both sides with what `gateway` says.  A side with `null-auth` proves
    nothing and has no identity (RFC 7619): as `remote` it lets in whoever can reach the gateway.
    """

    local: f.MethodWord | None = _key("How we prove who we are; needed where keys for more than one method stand "
                                      "together.", "what the other keys say")
    remote: f.MethodWord | None = _key("How the peer does.", "what the other keys say")
    psk_file: f.FilePath | None = _key(
        "File with the key, owned by root or the daemon's user, without group-write and without any right for "
        "others. One trailing newline is removed; `0x` begins hex, `0s` base64.")
    psk_credential: f.Name | None = _key(
        "Name of a systemd credential (LoadCredential=) with the key. A reload reads it again, but systemd itself "
        "renews it at a restart only.")
    psk: f.InlineSecret | None = _key("The key itself; allowed only where the configuration file's mode is 0600.")
    weak_psk: f.Bool | None = _key("Accept a key under 16 bytes.", default=False)
    certificate: f.FilePath | None = _key("Our certificate toward this peer, as in `gateway`.", "gateway.certificate")
    private_key: f.KeySource | None = _key("Its private key.", "gateway.private_key")
    passphrase_file: f.FilePath | None = _key("The passphrase of that key, or the PIN of its token.",
                                              "gateway.passphrase_file")
    public_keys: Files | None = _key("The peer's public keys, in PEM or DER, for `public-key` (RFC 7670); any of them "
                                     "proves it, so that one can be renewed.")
    authorities: Files | None = _key("Who may name this peer.", "gateway.authorities")
    intermediates: Files | None = _key("Authorities between those and the peer.", "gateway.intermediates")
    crls: Files | None = _key("Certificate revocation lists.", "gateway.crls")
    issuer: f.IdentityValue | None = _key("An authority that must be in the peer's chain: \"dn:C=..., CN=...\".", "any")
    revocation: f.RevocationWord | None = _key(
        "Without a current revocation list or OCSP response: the peer is refused, taken, or it is not asked at all. "
        "What the files do not say, nor an OCSP response that the peer sends along (RFC 4806), is fetched from where "
        "the certificates of the peer's chain name (HTTP, 5 s).",
        "if-available")
    any_purpose: f.Bool | None = _key("Accept a certificate whose extended key usage names other purposes than IKE, "
                                      "such as TLS.", default=False)


class PpkKeys(Keys):
    """A post-quantum pre-shared key beside what `auth` says (RFC 8784)."""

    id: f.KeyName = Field(description="Its name, the same on both ends. Required.")
    file: f.FilePath = Field(description="File with the key, at least 32 random bytes, in the forms of `psk_file` and "
                                         "protected likewise. Required.")
    required: f.Bool | None = _key("`false` makes do without where the peer does not have the key, with a warning.",
                                   default=True)


class PeerHead(Keys):
    """One peer, without its children."""

    address: Annotated[list[f.Host], BeforeValidator(f.one_or_many),
                       Field(min_length=1, max_length=d.MAX_ADDRESSES)] | None = _key(
        "Addresses and names of the peer, tried in order; names are resolved again and again.",
        "any address; listen only")
    identity: f.PeerIdentityValue | None = _key(
        "What the peer must present. Needed where `address` is absent; there it may be a pattern, and each remote that "
        "it stands for has an IKE SA, selectors (a part of the children's that no other remote has) and a row in "
        "`status` of its own: \"*.branches.example.net\" (one label), \"*@example.net\", \"dn:C=DE, O=Example, "
        "CN=*\", or `any` with certificates. Identities that other entries name are never among them.",
        "the address used")
    local_identity: f.IdentityValue | None = _key("What we present to this peer.", "gateway.identity")
    auth: Annotated[AuthKeys, BeforeValidator(f.auth_mapping)] = Field(
        description="How both sides prove who they are. Required.")
    enabled: f.Bool | None = _key("`false` keeps the entry asleep: no negotiation, and what its children protect is "
                                  "dropped unless another entry takes it. Remove the peer to let the traffic go.",
                                  default=True)
    ppk: PpkKeys | None = _key("Post-quantum pre-shared key.")
    ike: IkeKeys | None = _key("IKE SA.")
    encapsulation: f.EncapsulationWord | None = _key(
        "How ESP is sent; it is taken either way. `udp`: in UDP, which passes every NAT and is cut by this host's "
        "segmentation offload; NAT detection is made to find a NAT. `auto`: the same, but without UDP to a peer that "
        "does no NAT traversal. `raw`: as IP protocol 50, 8 bytes shorter and several times as costly to send; in UDP "
        "all the same where a NAT is found, with a warning.", "auto")
    legacy: f.Bool | None = _key("Allow SHA-1, MODP-1024 and MODP-1536 in this peer's proposals.", default=False)


class PeerKeys(PeerHead):
    """One peer with its children."""

    children: dict[f.Name, ChildKeys] | None = _key("The peer's children by name; the first match wins, in the order "
                                                    "written.")


class DefaultKeys(Keys):
    """Whatever a peer or child does not say."""

    ike: IkeKeys | None = _key("For every peer's `ike`.")
    child: ChildDefaults | None = _key("For every child.")


class PolicyKeys(Keys):
    """One bypass or discard entry, ahead of what the children protect."""

    name: f.Name = Field(description="Name in status, `plan` and counters. Required.")
    action: f.ActionWord = Field(description="`bypass` lets pass in clear, `discard` drops. Required.")
    local: Selectors | None = _key("Addresses behind this gateway.", "any")
    remote: Selectors | None = _key("Addresses elsewhere.", "any")
    interface: f.Interface | None = _key("Only packets that arrive by this interface.", "any")


class ControlKeys(Keys):
    """The control socket of ipsecctl."""

    socket: f.FilePath | None = _key("Unix socket; its group may read, changing anything needs root or `admins`.",
                                     d.CONTROL_SOCKET)
    admins: Annotated[list[f.Name], BeforeValidator(f.one_or_many)] | None = _key(
        "Users who may change state as root may.", "none")


class MetricsKeys(Keys):
    """Prometheus metrics."""

    listen: f.ListenAddress | None = _key("Address and port; without authentication, so keep it local.", "off")


class LogKeys(Keys):
    """The log."""

    level: f.LevelWord | None = _key("Least severe events that are logged.", "info")
    format: f.FormatWord | None = _key("JSON, coloured text, or by where the output goes.", "auto")


class Root(Keys):
    """The whole file."""

    gateway: GatewayKeys | None = _key("This gateway.")
    defaults: DefaultKeys | None = _key("Whatever a peer does not say.")
    peers: dict[f.Name, PeerKeys] | None = _key("Peers by name; conf.d/*.yaml beside this file may add more.")
    policies: list[PolicyKeys] | None = _key("Bypass and discard entries in order, ahead of all children.")
    policies_default: f.ActionWord | None = _key(
        "What happens to traffic that no entry selects: `bypass` leaves it to the router (a deviation from RFC 4301 "
        "section 5), `discard` drops it.", "bypass")
    control: ControlKeys | None = _key("Control socket.")
    metrics: MetricsKeys | None = _key("Metrics.")
    log: LogKeys | None = _key("Log.")
