"""`ipsecctl status` for people: two lines of gateway, a line for each peer and child, and beneath it what is wrong.

A healthy gateway fits 80 columns.  Text goes to rich as Text objects, never as markup: a name with brackets is a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ipsecd.cli.units import counters, duration, size
from ipsecd.control.schema import ChildView, Error, IkeView, PeerView, SaView, StatusAnswer, Traffic, Wait

_STYLES = {"up": "green", "rekeying": "green", "connecting": "yellow", "waiting": "yellow", "listening": "cyan",
           "idle": "cyan", "down": "red", "asleep": "dim"}
_MANY_PEERS = 10                    # from here on a summary goes before the table
_ERROR_STALE_S = 3600.0             # an error of something that is up again is shown for an hour


def status_view(answer: StatusAnswer, *, detailed: bool = False) -> RenderableType:
    """Return the whole status; `detailed` adds identities, algorithms, selectors, paths and drops by reason."""
    parts: list[RenderableType] = [*_gateway(answer), Text()]
    if not answer.peers:
        return Group(*parts, Text("no peers are configured", style="dim"))
    if len(answer.peers) >= _MANY_PEERS:
        parts += [_summary(answer.peers), Text()]
    parts.append(_table(answer.peers))
    for peer in answer.peers:
        parts += _troubles(peer)
        if detailed:
            parts += _details(peer)
    return Group(*parts)


def error_lines(error: Error, indent: str = "") -> Iterator[Text]:
    """Yield a failure: what, both sides' evidence, and what to change."""
    ago = f" ({duration(error.age_s)} ago)" if error.age_s is not None else ""
    yield Text(f"{indent}{error.summary}{ago}", style="red")
    rows = (("we offered", error.ours), ("peer offered", error.theirs), ("peer said", error.notify),
            ("try", error.hint), ("at", error.where))
    for label, value in rows:
        if value:
            yield Text.assemble((f"{indent}  {label:<13}", "dim"), value)


def _gateway(answer: StatusAnswer) -> Iterator[Text]:
    gateway, config = answer.gateway, answer.config
    yield Text.assemble(("ipsecd ", "bold"), gateway.version, f"  engine {gateway.engine}",
                        f"  up {duration(gateway.uptime_s)}", f"  {gateway.interface}",
                        f"  loop p99 {gateway.loop_lag.p99_ms:.0f} ms",
                        f"  half-open {gateway.half_open}{' (cookies)' if gateway.cookies else ''}")
    yield Text(f"{config.file}  generation {config.generation}, applied {duration(config.age_s)} ago")
    if config.running_old:
        yield Text("running the old configuration: the last reload was refused", style="bold red")
    for problem in config.problems:
        yield Text(f"  {problem}", style="red")
    for warning in config.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    if not gateway.guard.installed:
        yield Text("the guard is not installed: nothing stops clear traffic if routes go", style="bold red")
    rows = (("drops", gateway.drops), ("overflows", gateway.overflows), ("guard", gateway.guard.counters))
    for label, counts in rows:
        if text := counters(counts):
            yield Text.assemble((f"{label}: ", "dim"), text)
    if gateway.guard.repairs:
        yield Text(f"repairs of what others removed: {gateway.guard.repairs}", style="yellow")


def _summary(peers: list[PeerView]) -> Text:
    """Return how many peers and children are in which state: more than one can count in a long table."""
    rows = (("peers", Counter(p.state for p in peers)),
            ("children", Counter(c.state for p in peers for c in p.children)))
    parts = [f"{counts.total()} {what}: " + ", ".join(f"{n} {state}" for state, n in counts.most_common())
             for what, counts in rows if counts]
    return Text("\n".join(parts))


def _table(peers: list[PeerView]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("PEER", "STATE"):
        table.add_column(heading, no_wrap=True)
    for heading in ("AGE", "REKEY", "IN", "OUT", "MTU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for peer in peers:
        ike = peer.ike[0] if peer.ike else None
        table.add_row(Text(peer.name, style="bold"), _state(peer.state), duration(ike.age_s if ike else None),
                      duration(ike.rekey_in_s if ike else None), "", "", _path_mtu(peer))
        for child in peer.children:
            sa = child.sas[0] if child.sas else None
            table.add_row(Text(f"  {child.name}"), _state(child.state), duration(sa.age_s if sa else None),
                          duration(sa.rekey_in_s if sa else None), size(child.traffic.bytes_in),
                          size(child.traffic.bytes_out), _number(child.path_mtu))
    return table


def _path_mtu(peer: PeerView) -> str:
    """Show the size, with where it came from where that is not the route."""
    said = peer.path_mtu_origin
    return _number(peer.path_mtu) + (f" {said}" if said not in ("", "route") else "")


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _troubles(peer: PeerView) -> Iterator[Text]:
    waiting_for = peer.waiting_for or next((ike.waiting_for for ike in peer.ike), None)
    if peer.enabled and waiting_for and peer.state != "up":
        failed = f", {peer.attempts} attempts failed" if peer.attempts else ""
        yield Text(f"{peer.name}: {_wait(waiting_for)}{failed}", style="yellow")
    if peer.redirected_to:
        yield Text(f"{peer.name}: sent on by the peer to gateway {peer.redirected_to}", style="yellow")
    if peer.last_error and _still_matters(peer.last_error, peer.state):
        yield Text(f"{peer.name}:", style="bold")
        yield from error_lines(peer.last_error, "  ")
    for child in peer.children:
        yield from _child_troubles(peer, child)


def _child_troubles(peer: PeerView, child: ChildView) -> Iterator[Text]:
    name = f"{peer.name}/{child.name}"
    if child.waiting_for and child.state not in ("up", "rekeying"):
        yield Text(f"{name}: {_wait(child.waiting_for)}", style="yellow")
    if child.held_packets:
        yield Text(f"{name}: {child.held_packets} packets held until it is up", style="yellow")
    if child.narrowed:
        yield Text(f"{name}: the peer narrowed the selectors (ipsecctl status {peer.name} shows them)", style="yellow")
    if child.last_error and _still_matters(child.last_error, child.state):
        yield Text(f"{name}:", style="bold")
        yield from error_lines(child.last_error, "  ")


def _still_matters(error: Error, state: str) -> bool:
    return state != "up" or error.age_s is None or error.age_s < _ERROR_STALE_S


def _wait(wait: Wait) -> str:
    return wait.why if wait.in_s is None else f"{wait.why} in {duration(wait.in_s)}"


def _details(peer: PeerView) -> Iterator[Text]:
    yield Text()
    yield Text(peer.name, style="bold")
    yield _row("addresses", ", ".join(peer.addresses) or "any")
    if peer.remote_address:
        yield _row("path", f"{peer.local_address} -> {peer.remote_address}, NAT {peer.nat}")
    for ike in peer.ike:
        yield from _ike_details(ike)
    for child in peer.children:
        yield Text(f"  {child.name}", style="bold")
        yield _row("configured", f"{' '.join(child.local)} === {' '.join(child.remote)}, {child.mode}, {child.start}")
        yield _row("in, out", _traffic(child.traffic))
        if text := counters(child.drops):
            yield _row("drops", text)
        for sa in child.sas:
            yield from _sa_details(sa)


def _ike_details(ike: IkeView) -> Iterator[Text]:
    rekey = "" if ike.rekey_in_s is None else f", rekey in {duration(ike.rekey_in_s)}"
    yield _row("IKE SA", f"{ike.ike} {ike.state}")
    yield _row("", f"{ike.role}, age {duration(ike.age_s)}{rekey}")
    if ike.suite:
        yield _row("", f"{ike.suite}, NAT {ike.nat}")
    if ike.remote_identity:
        yield _row("identities", f"{ike.local_identity} === {ike.remote_identity}")
    if ike.waiting_for:
        yield _row("next", _wait(ike.waiting_for))


def _sa_details(sa: SaView) -> Iterator[Text]:
    yield _row("SA", f"{sa.spi_in} in, {sa.spi_out} out, age {duration(sa.age_s)}, rekey in {duration(sa.rekey_in_s)}")
    yield _row("", f"{sa.suite}, {'ESN, ' if sa.esn else ''}window {sa.replay_window}")
    yield _row("selectors", f"{' '.join(sa.ts_local)} === {' '.join(sa.ts_remote)}")
    how = "ESP as such" if sa.encapsulation == "raw" else "ESP in UDP"
    yield _row("path", f"{sa.path}, {'AH, not encrypted' if sa.protocol == 'ah' else how}")
    if sa.tfc:
        yield _row("padding", sa.tfc)


def _traffic(traffic: Traffic) -> str:
    return (f"{traffic.packets_in} packets {size(traffic.bytes_in)}{_last(traffic.last_in_age_s)}, "
            f"{traffic.packets_out} packets {size(traffic.bytes_out)}{_last(traffic.last_out_age_s)}")


def _last(age_s: float | None) -> str:
    return "" if age_s is None else f" (last {duration(age_s)} ago)"


def _row(label: str, value: str) -> Text:
    return Text.assemble((f"    {label:<12}", "dim"), value)
