"""`ipsecctl policy`: which SPD entry decides about a packet, and why each earlier one did not (RFC 4301 4.4.1).

Matching itself is ipsec.spd's, so that the answer is the data plane's; this module only finds words.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from ipsecd.control.schema import EntryVerdict, PolicyAnswer, PolicyQuery
from ipsecd.ike.consts import ProtocolId
from ipsecd.ipsec.spd import Flow, selects
from ipsecd.policy import Policy, SpdEntry, Start
from ipsecd.sa import ChildKey, SaPair
from ipsecd.selectors import ICMP_PROTOCOLS, PROTOCOL_NAMES, TrafficSelector

MAX_VERDICTS = 256
_MAX_NAMED = 4                      # selectors named in one sentence
_WHOLE_ONLY: dict[int, str] = {
    ProtocolId.ESP: "in transport mode: fragments, and packets with IP options, are dropped",
    ProtocolId.AH: "in transport mode: fragments, and packets that prescribe their route, are dropped",
}


def explain(policy: Policy, pairs: Sequence[SaPair], query: PolicyQuery) -> PolicyAnswer:
    """Return the first entry that takes the packet, and the pair of `pairs` (oldest first) that would carry it now."""
    flow = flow_of(query)
    verdicts: list[EntryVerdict] = []
    decides: tuple[int, SpdEntry] | None = None
    for number, entry in enumerate(policy.entries, 1):
        why = _why_not(entry, flow, query.interface)
        verdicts.append(EntryVerdict(number=number, name=entry.name, action=entry.action.value, matched=not why,
                                     why=why or "matches"))
        if not why:
            decides = number, entry
            break
    shown, skipped = verdicts[-MAX_VERDICTS:], max(0, len(verdicts) - MAX_VERDICTS)
    if decides is None:
        return PolicyAnswer(action=policy.default_action.value, entry=None, name="policies_default", verdicts=shown,
                            skipped=skipped)
    number, entry = decides
    spi, note = _carrier(policy, entry.child, pairs, flow, inbound=query.inbound) if entry.child else (None, "")
    return PolicyAnswer(action=entry.action.value, entry=number, name=entry.name, spi=spi, note=note,
                        peer=entry.child.peer if entry.child else None, verdicts=shown, skipped=skipped,
                        child=entry.child.child if entry.child else None)


def _carrier(policy: Policy, key: ChildKey, pairs: Sequence[SaPair], flow: Flow, *, inbound: bool
             ) -> tuple[str | None, str]:
    """Return the SPI that would carry the flow, and what else decides about it."""
    of_child = [pair for pair in pairs if pair.child == key]
    for pair in reversed(of_child):
        if selects(pair.ts_local, pair.ts_remote, flow):
            note = "" if pair.transport is None else _WHOLE_ONLY[pair.suite.protocol]
            return f"{(pair.inbound if inbound else pair.outbound).spi:08x}", note
    if of_child:
        return None, "no SA takes it: the peer narrowed the selectors"
    peer = policy.peer(key.peer)
    child = peer.child(key.child) if peer else None
    if peer is None or not peer.enabled:
        return None, "no SA: the peer is asleep, and the packet is dropped"
    if child is not None and child.start is Start.LISTEN:
        return None, "no SA: the child waits for the peer"
    return None, "no SA yet: packets are held while it comes up"


def flow_of(query: PolicyQuery) -> Flow:
    """Return the packet as selectors see it from this gateway."""
    source, destination = ip_address(query.source), ip_address(query.destination)
    ports = query.source_port, query.destination_port
    if query.icmp is not None:
        ports = (query.icmp[0] * 256 + query.icmp[1],) * 2       # RFC 7296 3.13.1
    sides = (int(source), ports[0]), (int(destination), ports[1])
    (local, local_port), (remote, remote_port) = reversed(sides) if query.inbound else sides
    return Flow(source.version, local, remote, query.protocol, local_port, remote_port)


def _why_not(entry: SpdEntry, flow: Flow, interface: str | None) -> str:
    """Return why the entry does not take the flow, "" where it does."""
    if entry.interface not in (None, interface):
        return f"only what comes from interface {entry.interface}"
    if selects(entry.local, entry.remote, flow):
        return ""
    return (_side("local", entry.local, flow, flow.local, flow.local_port)
            or _side("remote", entry.remote, flow, flow.remote, flow.remote_port))


def _side(side: str, selectors: Sequence[TrafficSelector], flow: Flow, address: int, port: int | None) -> str:
    here = [ts for ts in selectors if ts.version == flow.version and ts.low <= address <= ts.high]
    if not here:
        text = ip_address(address) if flow.version == 4 else ip_address(address.to_bytes(16))
        return f"{side} {text} is not in {_named(selectors)}"
    of_protocol = [ts for ts in here if ts.protocol in (0, flow.protocol)]
    if not of_protocol:
        return f"protocol {_protocol(flow.protocol)} is not in {side} {_named(here)}"
    if any(ts.matches(version=flow.version, address=address, protocol=flow.protocol, port=port) for ts in of_protocol):
        return ""
    what = "type and code" if flow.protocol in ICMP_PROTOCOLS else "port"
    if port is None:
        return f"the packet shows no {side} {what}, and the entry selects by it: {_named(of_protocol)}"
    shown = f"{port // 256}.{port % 256}" if flow.protocol in ICMP_PROTOCOLS else str(port)
    return f"{side} {what} {shown} is not in {_named(of_protocol)}"


def _named(selectors: Sequence[TrafficSelector]) -> str:
    more = len(selectors) - _MAX_NAMED
    return ", ".join(str(ts) for ts in selectors[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _protocol(number: int) -> str:
    return PROTOCOL_NAMES.get(number, "any" if number == 0 else str(number))
