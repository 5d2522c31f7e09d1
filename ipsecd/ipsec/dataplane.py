"""The way of a packet, without I/O.  The hot path returns bytes or a DropReason; it raises for no packet.

Outbound   route:  1 flow cache  2 headers  3 loop guard  4 SPD  5 the child's SA, else hold and acquire
           seal:   6 limits  7 number and count  8 seal
Inbound    open:   1 length  2 replay check  3 open  4 commit  5 count, path  6 trailer  7 selectors  8 ECN
                   (one long function: each call saved is 2 % of a packet's time)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct

from ipsecd.drops import DropReason
from ipsecd.ipsec import early, ecn, ip, reports
from ipsecd.ipsec.esp import TRAILERS
from ipsecd.ipsec.held import HeldPackets
from ipsecd.ipsec.ip import Fault, FlowKey, Headers, flow_key
from ipsecd.ipsec.lifetime import NEVER, Meter
from ipsecd.ipsec.mtu import LARGE_PACKET_BYTES, LARGE_REPORT_S
from ipsecd.ipsec.replay import full_sequence
from ipsecd.ipsec.sad import Pair, Sad
from ipsecd.ipsec.spd import Flow, Spd, inbound_flow, outbound_flow
from ipsecd.ipsec.tfc import DUMMY_TRAILERS, NO_NEXT_HEADER, padded_bytes
from ipsecd.ipsec.transport import NEVER_INSIDE, Rebuilder, is_padding, trailers_of
from ipsecd.policy import Action, SpdEntry
from ipsecd.rng import Rng
from ipsecd.sa import ChildKey, Path, SaPair, SaStats

# Tuning
MAX_FLOWS = 8192                                   # entries of a flow cache; a full one starts afresh
MAX_PAIR_FLOWS = 2048
ACQUIRE_BYTES = 128                                # of the packet, enough for its headers
UNKNOWN_SPI_REPORTS_PER_S = 10                     # RFC 7296 1.5: what an unauthenticated sender triggers is limited

_TRAILERS_V4, _TRAILERS_V6 = TRAILERS[ip.IPV4], TRAILERS[ip.IPV6]
_U32 = Struct(">I").unpack_from
# What RFC 4301 6.2 lets an ICMP error pass nevertheless, by the packet that it is about.
_ICMP_MAY_PASS = frozenset({DropReason.SPD_NO_MATCH, DropReason.OUTSIDE_NEGOTIATED})


class Dataplane:
    """SPD, SAD and held packets of one gateway.  Whoever calls it drains `take_reports` after each batch."""

    def __init__(self, rng: Rng) -> None:
        self.sad = Sad()
        self.spd = Spd(())
        self.held = HeldPackets()
        self.early = early.Early()
        self.drops: dict[DropReason, int] = {}
        self.unexpected_ecn = 0                    # RFC 6040 4.2: combinations worth a look
        self.own_addresses: frozenset[tuple[int, int]] = frozenset()    # (version, address)
        self._rng = rng
        self._interfaces: dict[str, str | None] = {}
        self.flows: dict[str, dict[FlowKey, Pair]] = {}    # of each device: pairs that flows were routed to
        self._known: dict[Pair, bool] = {}         # those that know inbound flows
        self._inner_mtus: Mapping[ChildKey, int] = {}
        self._reports: list[reports.Report] = []
        self._unknown_since, self._unknown_count = 0.0, 0

    # Commands of the control side

    def add_device(self, device: str, interface: str | None) -> None:
        """Know a TUN device and the ingress interface that it serves (None: all that have no device of their own)."""
        self._interfaces[device] = interface
        self.flows[device] = {}

    def remove_device(self, device: str) -> None:
        """Know a TUN device no more."""
        self._interfaces.pop(device, None)
        self.flows.pop(device, None)

    def install_sa(self, pair: SaPair) -> None:
        """Accept inbound packets of the pair.  Raises LocalError for keys that do not fit its suite."""
        self.sad.install(Pair(pair, self._rng, self._inner_mtus.get(pair.child, 0)))
        self._forget_flows()

    def use_outbound(self, child: ChildKey, spi_in: int, now: float) -> list[tuple[str, bytes]]:
        """Send the slot's traffic on this pair; return what was held as (device, packet), to be sent now."""
        if not self.sad.use(child, spi_in):
            return []
        self._forget_flows()
        packets, old = self.held.release(child, now)
        found = [(device, packet) for device, packet in packets if device in self._interfaces]     # not removed since
        self.drop(DropReason.HELD_ABANDONED, count=old + len(packets) - len(found))
        return found

    def update_path(self, spi_in: int, path: Path) -> None:
        """Send the pair's packets over another path."""
        pair = self.sad.by_spi.get(spi_in)
        if pair is not None:
            pair.path = path

    def remove_sa(self, spi_in: int) -> tuple[SaStats, dict[DropReason, int]] | None:
        """Forget both directions of a pair; return its last counters and drops, None for an unknown SPI."""
        pair = self.sad.remove(spi_in)
        self._forget_flows()
        return (pair.stats(), pair.drops) if pair is not None else None

    def abandon_held(self, child: ChildKey) -> None:
        """Drop, with a count, what is held for a child; the next packet asks anew."""
        self.drop(DropReason.HELD_ABANDONED, count=self.held.abandon(child))

    def replace_policy(self, entries: Sequence[SpdEntry], inner_mtus: Mapping[ChildKey, int]) -> None:
        """Replace the SPD as a whole; the next packet of every flow, either way, meets the new one."""
        self.spd = Spd(entries)
        self._inner_mtus = dict(inner_mtus)
        for pair in self.sad.by_spi.values():
            pair.inner_mtu = self._inner_mtus.get(pair.child, 0)
        self._forget_flows()
        children = frozenset(entry.child for entry in entries if entry.child is not None)
        self.drop(DropReason.HELD_ABANDONED, count=self.held.keep_only(children))

    def set_own_addresses(self, addresses: frozenset[tuple[int, int]]) -> None:
        """Set our own outside addresses, as (version, address): the loop guard and the martian check know them."""
        self.own_addresses = addresses
        self._forget_flows()

    def take_reports(self) -> list[reports.Report]:
        """Hand over what the control side must hear."""
        taken, self._reports = self._reports, []
        return taken

    def drop(self, reason: DropReason, pair: Pair | None = None, *, count: int = 1) -> DropReason:
        """Count dropped packets, for the pair too where there is one; return the reason."""
        if count:
            self.drops[reason] = self.drops.get(reason, 0) + count
            if pair is not None:
                pair.drops[reason] = pair.drops.get(reason, 0) + count
        return reason

    def _forget_flows(self) -> None:
        for flows in self.flows.values():
            flows.clear()
        for pair in self._known:
            pair.flows.clear()
        self._known.clear()

    # Outbound

    def route(self, packet: bytes, device: str, now: float) -> Pair | ChildKey | DropReason:
        """Return the pair a packet from the TUN goes on; a ChildKey means `hold` it for that child."""
        flows = self.flows[device]
        key = flow_key(packet, len(packet))
        if key is not None:
            known = flows.get(key)
            if known is not None:
                return known
        verdict = self._decide(packet, device, now)
        if key is not None and isinstance(verdict, Pair):
            if len(flows) >= MAX_FLOWS:
                flows.clear()
            flows[key] = verdict
        return verdict

    def hold(self, child: ChildKey, device: str, packet: bytes, now: float) -> None:
        """Keep a packet until its child has an SA, and tell the control side once."""
        self.drop(DropReason.HELD_OVERFLOW, count=self.held.add(child, device, packet, now))
        self._acquire(child, packet, now)

    def choose(self, child: ChildKey, packet: bytes) -> Pair | None:
        """Return the pair of a child that takes a packet, without asking the SPD (probes)."""
        headers = ip.parse(packet)
        if isinstance(headers, Fault):
            return None
        found = self.sad.choose(child, outbound_flow(headers))
        return found if isinstance(found, Pair) else None

    def seal(self, pair: Pair, packet: bytes, now: float, *, dummy: bool = False) -> bytes | DropReason:
        """Return the ESP packet, or the IP packet with AH, to be sent over `pair.path`; of a dummy the size counts."""
        length = len(packet)
        if pair.refusal is not None:
            return self.drop(pair.refusal, pair)
        if length > pair.inner_mtu > 0:
            return self.drop(DropReason.TOO_BIG, pair)
        trailers = DUMMY_TRAILERS if dummy else _TRAILERS_V4 if packet[0] < 0x60 else _TRAILERS_V6
        part = pair.part_of(packet) if pair.transport is not None and not dummy else None
        if part is not None and isinstance(part, DropReason):
            return self.drop(part, pair)
        padded = length = length if part is None else part.end - part.start
        if pair.tfc.pads and part is None and not dummy:
            padded = padded_bytes(pair.tfc, length, pair.inner_mtu, self._rng)
            packet += bytes(padded - length)
        if padded > LARGE_PACKET_BYTES and now >= pair.large_due and not dummy:
            pair.large_due = now + LARGE_REPORT_S
            self._reports.append(reports.LargeOutbound(pair.spi_in))
        # Counted up before sealing: a number is never used twice, whatever happens to the packet (RFC 4106 3.1).
        sequence = pair.sequence = pair.sequence + 1
        meter = pair.outward
        meter.packets += 1
        meter.bytes += length
        meter.last = now
        if sequence >= pair.alarm_sequence or meter.packets >= meter.alarm_packets or meter.bytes >= meter.alarm_bytes:
            self.ring(pair, meter)
        if pair.ah is not None:
            sealed = pair.ah.seal.protect(packet, part, pair.path, sequence)
            return self.drop(sealed, pair) if isinstance(sealed, DropReason) else sealed
        if part is not None:
            return pair.sealer.seal(packet[part.start:part.end], trailers_of(part.next_header), sequence)
        return pair.sealer.seal(packet, trailers, sequence)

    def _decide(self, packet: bytes, device: str, now: float) -> Pair | ChildKey | DropReason:
        headers = ip.parse(packet)
        if isinstance(headers, Fault):
            return self.drop(DropReason.TUN_MALFORMED if headers is Fault.MALFORMED else DropReason.OUTBOUND_FRAGMENT)
        # Our own IKE, ESP or AH, sent into the tunnel by a broken route.
        if (headers.version, headers.source) in self.own_addresses and ip.is_tunnel_traffic(headers):
            return self.drop(DropReason.TUN_LOOPED)
        interface = self._interfaces[device]
        verdict, child = self._search(outbound_flow(headers), interface)
        if verdict in _ICMP_MAY_PASS:
            about = ip.quoted_packet(packet, headers)
            # RFC 4301 6.2: it travels on the SA of the packet it is about, back to that packet's sender only.
            if about is not None and about.source == headers.destination:
                reversed_verdict, _ = self._search(inbound_flow(about), interface)
                if isinstance(reversed_verdict, Pair):
                    return reversed_verdict
        if isinstance(verdict, Pair):
            return verdict
        if verdict is DropReason.NO_SA and child is not None:
            return child
        if verdict is DropReason.OUTSIDE_NEGOTIATED and child is not None:
            self._acquire(child, packet, now)      # with one SA for each selector pair, another may come up
        return self.drop(verdict)

    def _search(self, flow: Flow, interface: str | None) -> tuple[Pair | DropReason, ChildKey | None]:
        """Return what SPD and SAD say: a pair, or the reason why not, with the child that it concerns."""
        entry = self.spd.lookup(flow, interface)
        if entry is None:
            hidden = flow.local_port is None and self.spd.hidden_ports_matter(flow, interface)
            return DropReason.OUTBOUND_FRAGMENT if hidden else DropReason.SPD_NO_MATCH, None
        if entry.action is not Action.PROTECT or entry.child is None:
            return (DropReason.SPD_DISCARD if entry.action is Action.DISCARD else DropReason.SPD_BYPASS_IN_TUN), None
        return self.sad.choose(entry.child, flow), entry.child

    def _acquire(self, child: ChildKey, packet: bytes, now: float) -> None:
        if self.held.should_acquire(child, now):
            self._reports.append(reports.Acquire(child, packet[:ACQUIRE_BYTES]))

    # Inbound

    def unknown_spi(self, path: Path, spi: int, now: float,
                    reason: DropReason = DropReason.ESP_UNKNOWN_SPI) -> DropReason:
        """Count ESP or AH that belongs to no pair, and report some of it."""
        if now - self._unknown_since >= 1.0:
            self._unknown_since, self._unknown_count = now, 0
        self._unknown_count += 1
        if self._unknown_count <= UNKNOWN_SPI_REPORTS_PER_S:
            self._reports.append(reports.UnknownSpi(path, spi))
        return self.drop(reason)

    def open(self, pair: Pair, data: bytes, start: int, end: int, path: Path, tos: int, now: float
             ) -> bytes | DropReason:
        """Return the inner packet of the ESP packet data[start:end], to be delivered to `pair.device`.

        `tos` is the outer byte of DSCP and ECN.
        """
        opener, window = pair.opener, pair.window
        if end - start < opener.minimum_bytes:
            return self.drop(DropReason.ESP_SHORT, pair)
        if pair.refusal is DropReason.SA_EXPIRED:
            return self.drop(DropReason.ESP_EXPIRED, pair)
        sequence: int = _U32(data, start + 4)[0]
        following = window.top + 1
        if pair.esn:                               # the next number in order needs no guess
            sequence = (following if sequence == following & 0xFFFFFFFF
                        else full_sequence(sequence, top=window.top, size=pair.window_size))
        fresh = sequence >= following
        if not fresh:
            refused = window.check(sequence)
            if refused is not None:
                return self.drop(refused, pair)
        plaintext = opener.open(data, start, end, sequence)
        if plaintext is None:
            return self.drop(DropReason.ESP_BAD_ICV, pair)
        refused = window.commit(sequence)
        if refused is not None:
            return self.drop(refused, pair)
        pad, next_header = plaintext[-2:]
        length = len(plaintext) - 2 - pad
        meter = pair.inward
        meter.packets += 1
        meter.bytes += max(length, 0)
        meter.last = now
        if (path is not pair.path and fresh) or not pair.heard:
            self.note_peer(pair, path if fresh else pair.path)
        if meter.packets >= meter.alarm_packets or meter.bytes >= meter.alarm_bytes:
            self.ring(pair, meter)
        if pair.transport is not None:
            return self._rebuild(pair, pair.transport, plaintext, length, next_header, tos)
        trailers = TRAILERS.get(next_header)
        if trailers is None:
            dummy = next_header == NO_NEXT_HEADER
            return self.drop(DropReason.ESP_DUMMY if dummy else DropReason.ESP_NEXT_HEADER, pair)
        if not plaintext.endswith(trailers[pad]):
            return self.drop(DropReason.ESP_BAD_PADDING, pair)
        if plaintext[0] >> 4 != (4 if next_header == ip.IPV4 else 6):
            return self.drop(DropReason.INNER_MALFORMED, pair)
        key = flow_key(plaintext, length)
        if key is None or key not in pair.flows:
            admitted = self.admit(pair, plaintext[:length], key)
            if isinstance(admitted, DropReason):
                return self.drop(admitted, pair)
            length = admitted
        return self.join_ecn(pair, plaintext[:length], tos & 3) if tos & 3 else plaintext[:length]

    def _rebuild(self, pair: Pair, transport: Rebuilder, plaintext: bytes, length: int, next_header: int, tos: int
                 ) -> bytes | DropReason:
        """Return the packet of a plaintext in transport mode: trailer and selectors, as above."""
        if next_header == NO_NEXT_HEADER:
            return self.drop(DropReason.ESP_DUMMY, pair)
        if next_header in NEVER_INSIDE:
            return self.drop(DropReason.ESP_NEXT_HEADER, pair)
        if length < 0 or not is_padding(plaintext[length:-2]):
            return self.drop(DropReason.ESP_BAD_PADDING, pair)
        packet = transport.packet(plaintext[:length], next_header, tos)
        key = flow_key(packet, len(packet))
        if key is None or key not in pair.flows:
            admitted = self.admit(pair, packet, key)
            if isinstance(admitted, DropReason):
                return self.drop(admitted, pair)
        return packet

    def note_peer(self, pair: Pair, path: Path) -> None:
        """Take note of the first packet of a pair, and of a fresh one that came by another path."""
        if not pair.heard:
            pair.heard = True
            self._reports.append(reports.FirstInbound(pair.spi_in))
        # RFC 7296 2.23: the peer's address moves; which of ours it wrote to matters only then.  What comes in the
        # other form says nothing of where the form that we send would arrive.
        if path.remote != pair.path.remote and pair.follow and path.raw == pair.path.raw:
            pair.path = path
            self._reports.append(reports.PeerAddress(pair.spi_in, path))
        elif path == pair.path:
            pair.path = path                       # the caller's object: the next packet is known by identity

    def admit(self, pair: Pair, packet: bytes, key: FlowKey | None) -> int | DropReason:
        """Judge the first packet of a flow (RFC 4301 5.2); return its length without TFC padding (RFC 4303 2.7)."""
        headers = ip.parse(packet)
        if isinstance(headers, Fault):
            return DropReason.INNER_MALFORMED if headers is Fault.MALFORMED else DropReason.INNER_FRAGMENT
        own = (headers.version, headers.source) in self.own_addresses
        if own or ip.is_martian(headers.version, headers.source):
            return DropReason.INNER_MARTIAN
        if ip.is_redirect(headers):
            return DropReason.INNER_REDIRECT
        flow = inbound_flow(headers)
        if not pair.selects(flow) and not self._is_error_about(pair, packet, headers):
            return DropReason.INNER_FRAGMENT if pair.hides_ports(flow) else DropReason.INNER_SELECTOR
        entry = self.spd.lookup(flow, self._interfaces.get(pair.device))
        # A discard entry ahead of the child was no subject of negotiation: the SA's selectors may cover it.
        if entry is not None and entry.action is Action.DISCARD:
            return DropReason.SPD_DISCARD
        if key is not None:
            if len(pair.flows) >= MAX_PAIR_FLOWS:
                pair.flows.clear()
            pair.flows[key] = True
            self._known[pair] = True
        return headers.length

    def _is_error_about(self, pair: Pair, packet: bytes, headers: Headers) -> bool:
        """Return whether this is an ICMP error about a packet that we sent on the pair (RFC 4301 6.2)."""
        about = ip.quoted_packet(packet, headers)
        return about is not None and about.source == headers.destination and pair.selects(outbound_flow(about))

    def join_ecn(self, pair: Pair, packet: bytes, outer: int) -> bytes | DropReason:
        """Return the inner packet with what the outer header says of congestion (RFC 6040 4.2)."""
        inner = ip.traffic_class(packet) & 3
        if ecn.is_unexpected(inner, outer):
            self.unexpected_ecn += 1
        joined = ecn.decapsulated(inner, outer)
        if joined == ecn.DROP:
            return self.drop(DropReason.ECN_FORBIDDEN, pair)
        return packet if joined == inner else ecn.with_ecn(packet, joined)

    # Both directions

    def ring(self, pair: Pair, meter: Meter) -> None:
        """Report limits that were reached, and stop the pair at a hard one."""
        soft, hard = meter.ring()
        if pair.sequence >= pair.alarm_sequence:
            if pair.sequence >= pair.last_sequence:    # RFC 4303 3.3.3: the counter must not cycle
                pair.alarm_sequence = NEVER
                pair.refusal = DropReason.SEQUENCE_EXHAUSTED
                hard = hard or "no sequence numbers left"
            else:
                pair.alarm_sequence = pair.last_sequence
                soft = soft or "half of the sequence numbers used"
        if meter.expired:
            pair.refusal = DropReason.SA_EXPIRED
        if soft:
            self._reports.append(reports.SoftLifetime(pair.spi_in, soft))
        if hard:
            self._reports.append(reports.HardLifetime(pair.spi_in, hard))
