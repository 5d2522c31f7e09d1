"""Peer and child keys -> PeerPolicy and ChildPolicy, with `defaults:` and defaults.py filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

from ipsecd.config import defaults as d
from ipsecd.config import model
from ipsecd.config.certificates import CERTIFICATE, NULL_AUTH, PSK_KEYS, CertificateFiles, Methods, methods
from ipsecd.config.key_exchanges import default_ike, demanding, missing
from ipsecd.config.nodes import Location
from ipsecd.config.ppk import compile_ppk
from ipsecd.config.problems import Problems
from ipsecd.config.secrets import PLACEHOLDER, SecretReader, check_strength, source_name
from ipsecd.config.selectors import compile_selector, pair
from ipsecd.config.tfc import compile_tfc
from ipsecd.config.validate import Peer
from ipsecd.config.values import show_s
from ipsecd.ike.consts import EsnId, ProtocolId, TransformType
from ipsecd.policy import (
    NOBODY,
    ChildPolicy,
    Encapsulation,
    EsnPolicy,
    Identity,
    IdentityPattern,
    IkePolicy,
    Mode,
    PeerPolicy,
    Pfs,
    Start,
    TsStyle,
)
from ipsecd.sa import ChildKey, Volume
from ipsecd.secret import Secret
from ipsecd.selectors import TrafficSelector
from ipsecd.suites import DEFAULT_AH_PROPOSALS, DEFAULT_ESP_PROPOSALS, Proposal, Transform, parse_proposal

V = TypeVar("V")
_ESN_ONLY = {EsnPolicy.YES: EsnId.ESN, EsnPolicy.NO: EsnId.NO_ESN}


def first(*said: V | None, default: V) -> V:
    """Return the first value that is said."""
    return next((v for v in said if v is not None), default)


class _Protection(NamedTuple):
    """What a child says of its protocol, and under which key."""

    key: str
    protocol: int
    keys: model.ProtectionKeys


class PeerCompiler:
    """Compiles peers; errors and warnings go to `problems`.

    `inline` tells whether the file that holds a location may carry a key.
    """

    def __init__(self, keys: model.DefaultKeys, identity: Identity | None, *, reader: SecretReader,
                 certificates: CertificateFiles, inline: Callable[[Location], bool], problems: Problems) -> None:
        self._ike = keys.ike or model.IkeKeys()
        self._child = keys.child or model.ChildDefaults()
        self._identity = identity
        self._reader = reader
        self._certificates = certificates
        self._inline = inline
        self._problems = problems
        self.secret_sources: set[str] = set()
        self._check_defaults()

    def compile(self, name: str, peer: Peer) -> PeerPolicy | None:
        """Return the policy of a peer, None where its own keys have errors."""
        location: Location = ("peers", name)
        head = peer.head
        addresses = tuple(head.address or ()) if head else ()
        children = self._children(name, peer.children, legacy=bool(head and head.legacy),
                                  listen_only=head is not None and not addresses)
        if head is None:
            return None
        found = methods(head.auth, (*location, "auth"), self._problems)
        remote_identity = self._remote_identity(location, head, found)
        pattern = head.identity if isinstance(head.identity, IdentityPattern) else None
        if pattern is not None:
            self._check_pattern(location, pattern, found, addressed=bool(addresses))
        if not addresses and remote_identity is None and pattern is None:
            self._problems.error(location, "found neither address nor identity; expected at least one, or every peer "
                                           "that knows the key would be taken for this one")
        if head.encapsulation == Encapsulation.UDP and any(c.protocol == ProtocolId.AH for c in children):
            self._problems.error((*location, "encapsulation"), "found udp beside a child with ah; expected auto or "
                                 "raw: for AH a peer is told that there is no NAT, and may send ESP without UDP then")
        if not peer.children:
            self._problems.warn(location, "has no children: it protects nothing")
        at: Location = (*location, "auth")
        identity = NOBODY if found.local == NULL_AUTH else head.local_identity or self._identity
        if head.ppk is not None:
            self.secret_sources.add(head.ppk.file)
        return PeerPolicy(
            name=name, enabled=first(head.enabled, default=True), addresses=addresses, local_identity=identity,
            remote_identity=remote_identity, psk=self._secret(at, head.auth) if found.uses_psk else PLACEHOLDER,
            ike=self._ike_policy(location, head), children=children,
            auth=self._certificates.auth(at, head.auth, found, identity, legacy=bool(head.legacy)),
            ppk=compile_ppk((*location, "ppk"), head.ppk, reader=self._reader, problems=self._problems),
            pattern=pattern, encapsulation=Encapsulation(first(head.encapsulation, default=Encapsulation.AUTO)))

    def _remote_identity(self, location: Location, head: model.PeerHead, found: Methods) -> Identity | None:
        """Return what the peer must present, None for its address."""
        if found.remote != NULL_AUTH:
            return head.identity if isinstance(head.identity, Identity) else None
        if head.identity is not None:
            self._problems.key((*location, "identity"), "found an identity beside auth.remote: null-auth, which proves "
                                                        "none; expected no such key")
        return NOBODY

    def _check_pattern(self, location: Location, pattern: IdentityPattern, found: Methods, *, addressed: bool) -> None:
        at: Location = (*location, "identity")
        if addressed:
            self._problems.error(at, f"found {pattern.text} beside an address; expected one identity, because who is "
                                     "called must be known, or no address")
        if pattern.type is None and found.remote != CERTIFICATE:
            self._problems.error(at, f"found any with auth.remote {found.remote}; expected certificates, which prove "
                                     "each name, or a pattern")
        elif found.remote != CERTIFICATE:
            self._problems.warn(at, f"every holder of the same key can claim each name of {pattern.text}; certificates "
                                    "tell them apart")

    def _check_defaults(self) -> None:
        for location, lifetime in ((("defaults", "ike", "lifetime"), self._ike.lifetime),
                                   (("defaults", "child", "lifetime"), self._child.lifetime)):
            self._warn_short(location, lifetime)
        for proposal in self._ike.proposals or ():
            self._proposal(proposal, ("defaults", "ike", "proposals"), ProtocolId.IKE, legacy=False)
        esp = self._child.esp
        if esp is None:
            return
        for proposal in esp.proposals or ():
            self._proposal(proposal, ("defaults", "child", "esp", "proposals"), ProtocolId.ESP, legacy=False)
        if esp.replay_window is not None and esp.replay_window < d.MIN_REPLAY_WINDOW:
            self._problems.expected(("defaults", "child", "esp", "replay_window"),
                                    f"{d.MIN_REPLAY_WINDOW} to {d.MAX_REPLAY_WINDOW} (0 may stand in a child only)")

    def _secret(self, at: Location, auth: model.AuthKeys) -> Secret:
        given = [key for key in PSK_KEYS if getattr(auth, key) is not None]
        if len(given) != 1:
            self._problems.error(at, f"found {' and '.join(given) or 'no key'}; expected exactly one of psk_file, "
                                     "psk_credential and psk")
            return PLACEHOLDER
        source, at = source_name(auth), (*at, given[0])
        if source is not None:
            self.secret_sources.add(source)
        try:
            key = self._reader.read(auth, inline=self._inline(at))
            if key is None:
                return PLACEHOLDER
            warning = check_strength(key, weak=bool(auth.weak_psk))
        except ValueError as error:
            self._problems.error(at, str(error))
            return PLACEHOLDER
        if warning:
            self._problems.warn(at, warning)
        return key

    def _ike_policy(self, location: Location, head: model.PeerHead) -> IkePolicy:
        own, common = head.ike or model.IkeKeys(), self._ike
        self._warn_short((*location, "ike", "lifetime"), own.lifetime)
        self._warn_short((*location, "ike", "reauth_time"), own.reauth_time)
        at: Location = (*location, "ike", "proposals")
        written = first(own.proposals, common.proposals, default=default_ike())
        proposals = tuple(p for text in dict.fromkeys(written)
                          if (p := self._proposal(text, at, ProtocolId.IKE, legacy=bool(head.legacy))))
        if first(own.post_quantum, common.post_quantum, default=d.POST_QUANTUM) == "required":
            proposals = self._post_quantum((*location, "ike", "post_quantum"), proposals)
        redirect = own.redirect if own.redirect is not None else common.redirect or False
        if redirect is not False and head.address and not isinstance(head.identity, Identity):
            self._problems.error((*location, "ike", "redirect"),
                                 "found redirect without an identity of the peer that it has to prove; expected "
                                 "`identity`, or every gateway that it names could take its place")
        path_mtu = first(own.path_mtu, common.path_mtu, default="auto")
        return IkePolicy(
            proposals=proposals,
            lifetime_s=first(own.lifetime, common.lifetime, default=d.IKE_LIFETIME_S),
            dpd_s=first(own.dpd, common.dpd, default=d.DPD_S),
            dpd_timeout_s=first(own.dpd_timeout, common.dpd_timeout, default=d.DPD_TIMEOUT_S),
            fragment_bytes=first(own.fragmentation, common.fragmentation, default=d.FRAGMENT_BYTES),
            childless=first(own.childless, common.childless, default=d.CHILDLESS),
            unique=first(own.unique, common.unique, default=d.UNIQUE),
            init_timeout_s=first(own.init_timeout, common.init_timeout, default=d.INIT_TIMEOUT_S),
            request_timeout_s=first(own.request_timeout, common.request_timeout, default=d.REQUEST_TIMEOUT_S),
            probe_path=path_mtu == "auto", path_mtu=path_mtu if isinstance(path_mtu, int) else 0,
            reauth_s=first(own.reauth_time, common.reauth_time, default=0.0),
            crash_detection=first(own.crash_detection, common.crash_detection, default=True),
            resumption=first(own.resumption, common.resumption, default=False),
            mobike=first(own.mobike, common.mobike, default=True),
            return_routability=first(own.return_routability, common.return_routability, default=True),
            redirect=redirect is not False, redirect_to=() if isinstance(redirect, bool) else redirect)

    def _children(self, peer: str, children: Mapping[str, model.ChildKeys], *, legacy: bool,
                  listen_only: bool) -> tuple[ChildPolicy, ...]:
        found = (self._child_policy(ChildKey(peer, name), keys, legacy=legacy, listen_only=listen_only)
                 for name, keys in children.items())
        return tuple(child for child in found if child is not None)

    def _child_policy(self, key: ChildKey, own: model.ChildKeys, *, legacy: bool,
                      listen_only: bool) -> ChildPolicy | None:
        at: Location = ("peers", key.peer, "children", key.child)
        common = self._child
        self._warn_short((*at, "lifetime"), own.lifetime)
        sides = compile_sides(at, own.local, own.remote, self._problems)
        said, written, shared = self._protection(at, own, listen_only=listen_only)
        window = self._window((*at, said.key, "replay_window"), said.keys, shared)
        esn = self._esn((*at, said.key), EsnPolicy(first(said.keys.esn, shared.esn, default=EsnPolicy.AUTO)), window)
        pfs = Pfs(first(said.keys.pfs, shared.pfs, default=Pfs.OFFER))
        proposals = [self._child_proposal((*at, said.key, "proposals"), text, said.protocol, esn, pfs, legacy=legacy)
                     for text in dict.fromkeys(written)]
        start = self._start((*at, "start"), own.start, listen_only=listen_only)
        if sides is None:
            return None
        return ChildPolicy(
            key=key, local=sides[0], remote=sides[1], start=start,
            mode=Mode(first(own.mode, common.mode, default=Mode.TUNNEL)),
            ts_style=TsStyle(first(own.ts_style, common.ts_style, default=TsStyle.COMBINED)),
            proposals=tuple(p for p in proposals if p is not None), pfs=pfs,
            lifetime_s=first(own.lifetime, common.lifetime, default=d.CHILD_LIFETIME_S),
            volume=_volume(first(said.keys.lifetime_bytes, shared.lifetime_bytes, default=0),
                           first(said.keys.lifetime_packets, shared.lifetime_packets, default=0)),
            replay_window=window, esn=esn, interface=own.interface,
            tfc=compile_tfc((*at, "tfc"), own, common, self._problems))

    def _protection(self, at: Location, own: model.ChildKeys, *, listen_only: bool,
                    ) -> tuple[_Protection, list[str], model.ProtectionKeys]:
        """Return what a child says of ESP or AH, its proposals, and what it has from `defaults`."""
        if own.ah is None:
            esp, shared = own.esp or model.EspKeys(), self._child.esp or model.EspKeys()
            return (_Protection("esp", ProtocolId.ESP, esp),
                    first(esp.proposals, shared.proposals, default=list(DEFAULT_ESP_PROPOSALS)), shared)
        if own.esp is not None:
            self._problems.error((*at, "ah"), "found ah beside esp; expected one of them: a child has one protocol")
        if listen_only:
            self._problems.error((*at, "ah"), "found ah in a peer without address; expected one, because NAT detection "
                                 "must be honest for AH, and comes before the peer says who it is")
        return (_Protection("ah", ProtocolId.AH, own.ah),
                first(own.ah.proposals, default=list(DEFAULT_AH_PROPOSALS)), model.ProtectionKeys())

    def _start(self, at: Location, own: str | None, *, listen_only: bool) -> Start:
        if not listen_only:
            return Start(first(own, self._child.start, default=Start.ALWAYS))
        if own not in (None, Start.LISTEN):
            self._problems.expected(at, "listen, because this peer has no address to call")
        return Start.LISTEN

    def _window(self, at: Location, own: model.ProtectionKeys, shared: model.ProtectionKeys) -> int:
        window = first(own.replay_window, shared.replay_window, default=d.REPLAY_WINDOW)
        if own.replay_window == 0:
            self._problems.warn(at, "anti-replay is off: recorded packets can be sent again (RFC 4303 3.4.3)")
        elif own.replay_window is not None and window < d.MIN_REPLAY_WINDOW:
            self._problems.expected(at, f"{d.MIN_REPLAY_WINDOW} to {d.MAX_REPLAY_WINDOW} packets, or 0 for no check")
        return window

    def _esn(self, at: Location, esn: EsnPolicy, window: int) -> EsnPolicy:
        """Return what is negotiated: without a window the high half of the number is lost (RFC 4303 2.2.1)."""
        if window:
            return esn
        if esn == EsnPolicy.YES:
            self._problems.error((*at, "esn"), "found esn: yes with replay_window: 0; expected a window or esn: no")
        return EsnPolicy.NO

    def _child_proposal(self, at: Location, text: str, protocol: int, esn: EsnPolicy, pfs: Pfs, *,
                        legacy: bool) -> Proposal | None:
        proposal = self._proposal(text, at, protocol, legacy=legacy)
        if proposal is None:
            return None
        if esn in _ESN_ONLY:
            wanted = Transform(TransformType.ESN, _ESN_ONLY[esn])
            if wanted not in proposal.transforms:
                self._problems.error(at, f"found {text!r}; expected a proposal that agrees with esn: {esn}")
            proposal = replace(proposal, transforms=tuple(
                t for t in proposal.transforms if t.type != TransformType.ESN or t == wanted))
        if pfs == Pfs.REQUIRED and not proposal.of_type(TransformType.KE):
            self._problems.error(at, f"found {text!r}; expected a key exchange such as x25519, "
                                     "because of pfs: required")
        return proposal.without_ke() if pfs == Pfs.OFF else proposal

    def _proposal(self, text: str, at: Location, protocol: int, *, legacy: bool) -> Proposal | None:
        try:
            proposal = parse_proposal(text, protocol=protocol, legacy=legacy)
        except ValueError as error:
            self._problems.error(at, f"found {text!r}; expected a proposal: {error}")
            return None
        absent = missing(proposal)
        if absent:
            self._problems.error(at, f"found {text!r}; expected a proposal without {absent}, which the OpenSSL of this "
                                     "machine does not have (ML-KEM comes with 3.5)")
        return proposal

    def _post_quantum(self, at: Location, proposals: tuple[Proposal, ...]) -> tuple[Proposal, ...]:
        kept = tuple(found for p in proposals if (found := demanding(p)))
        if proposals and not kept:
            self._problems.error(at, "found required, and no proposal of this peer has ML-KEM; expected one such as "
                                     "aes256gcm16-prfsha384-x25519-ke1_mlkem768")
        return kept

    def _warn_short(self, at: Location, lifetime: float | None) -> None:
        if lifetime is not None and lifetime < d.SHORT_LIFETIME_S:
            self._problems.warn(at, f"{show_s(lifetime)} is short: below {show_s(d.SHORT_LIFETIME_S)} rekeys cost more "
                                    "than they protect")


def compile_sides(at: Location, local: list[model.SelectorKeys], remote: list[model.SelectorKeys], problems: Problems,
                  ) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]] | None:
    """Return both sides' selectors, paired; None with errors."""
    sides: list[list[TrafficSelector]] = [[], []]
    good = True
    for side, key, forms in ((sides[0], "local", local), (sides[1], "remote", remote)):
        for index, form in enumerate(forms):
            try:
                side.append(compile_selector(form))
            except ValueError as error:
                problems.error((*at, key, index), str(error))
                good = False
    if not good:
        return None
    try:
        return pair(*sides)
    except ValueError as error:
        problems.error(at, f"found sides that do not pair: {error}; expected one on each side")
        return None


def _volume(count_bytes: int, count_packets: int) -> Volume:
    def hard(soft: int) -> int:
        return soft + max(1, int(soft * d.VOLUME_MARGIN)) if soft else 0

    return Volume(count_bytes, hard(count_bytes), count_packets, hard(count_packets))
