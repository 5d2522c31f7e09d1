"""`scripts/bench --sweep`: how the native engine's rates move with the number of policies, of SAs, of flows, and with
the size of packets; and what a negotiated pair of SAs costs a daemon in memory.

The worlds of all points stand at once and are measured in turn, so all see the same weather; each figure is the median
of its rounds.  `spread` is a flood of 64-byte packets to as many addresses as there are networks (see scaled.py):
whatever the number of policies or SAs, the same packets go.  `clear` goes through the same gateways and is protected by
nobody.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack

from tests.lab.contenders import IpsecdNative, IpsecdNoCrypto, wait_for_path
from tests.lab.loads import packets_s, serve, spread_packets_s, tcp_mbit_s
from tests.lab.rig import Rig
from tests.lab.scaled import CLEAR, FIRST, Scaled

SWEEPS = ("policies", "sas", "memory", "sizes", "flows")
SPREAD = 10_000                                  # addresses
NEGOTIATED = 1000                                # pairs of SAs by which memory is judged
SIZES = (64, 128, 256, 512, 1024, 1400, 4000, 9000)
FLOWS = (1, 2, 4, 8, 16, 32, 64)
JUMBO = 9000
_WAN_HEADROOM = 200                              # more than ESP in UDP in IPv6 adds

Figures = dict[str, float]
Swept = dict[str, Figures]                       # point: figures


def run(name: str, *, rounds: int, seconds: int, most: int) -> Swept:
    """Return the medians of a sweep at each of its points."""
    with ExitStack() as stack:
        measures = _world(name, stack, seconds, most)
        found: dict[str, list[Figures]] = {point: [] for point in measures}
        for number in range(rounds):
            for point, measure in measures.items():
                figures = measure()
                found[point].append(figures)
                shown = ", ".join(f"{key} {value:,.0f}" for key, value in figures.items())
                print(f"round {number + 1} {name} {point}: {shown}", file=sys.stderr)
    return {point: {key: statistics.median(r[key] for r in rows) for key in rows[0]} for point, rows in found.items()}


def table(name: str, swept: Swept) -> str:
    """Return the medians as text, with the ratio of the last point to the first below."""
    rows = list(swept.items())
    keys = list(rows[0][1])
    lines = [f"{name:>10}" + "".join(f"{key:>20}" for key in keys)]
    lines += [f"{point:>10}" + "".join(f"{figures[key]:>20,.0f}" for key in keys) for point, figures in rows]
    first, last = rows[0][1], rows[-1][1]
    ratios = "".join(f"{last[key] / first[key]:>20.2f}" if first[key] else f"{'':20}" for key in keys)
    return "\n".join([*lines, f"{'last/first':>10}{ratios}"])


def _world(name: str, stack: ExitStack, seconds: int, most: int) -> dict[str, Callable[[], Figures]]:
    if name in ("policies", "sas"):
        return _scaled_points(stack, seconds, most, sas=name == "sas")
    if name == "memory":
        return _memory(stack, min(most, NEGOTIATED))
    return _sizes(stack, seconds) if name == "sizes" else _flows(stack, seconds)


def _scaled_points(stack: ExitStack, seconds: int, most: int, *, sas: bool) -> dict[str, Callable[[], Figures]]:
    points = sorted({1, min(1000, most), most})
    rigs: dict[int, Rig] = {}
    for children in points:
        rig = stack.enter_context(Rig(watched=False))
        scaled = Scaled(rig, children, sas=sas)
        scaled.start()
        stack.callback(scaled.stop)
        wait_for_path(rig)
        serve(rig.b)
        rigs[children] = rig

    def measure(children: int) -> Figures:
        rig = rigs[children]
        clear = CLEAR["b"]
        figures = {
            "tcp_mbit_s": tcp_mbit_s(rig, seconds), "packets_s": packets_s(rig, seconds),
            "clear_mbit_s": tcp_mbit_s(rig, seconds, target=clear),
            "clear_packets_s": packets_s(rig, seconds, target=clear)}
        if sas:
            # Without an SA of its own each network's packets would be held.
            figures["spread_packets_s"] = spread_packets_s(rig, seconds, first=FIRST, count=SPREAD)
        return figures
    return {str(children): lambda children=children: measure(children) for children in points}  # type: ignore[misc]


def _memory(stack: ExitStack, most: int) -> dict[str, Callable[[], Figures]]:
    used: dict[int, dict[str, int]] = {}
    for children in (1, most):
        rig = stack.enter_context(Rig(watched=False))
        scaled = Scaled(rig, children, sas=True, negotiated=True)
        scaled.start()
        stack.callback(scaled.stop)
        used[children] = scaled.resident_kb()
    grown = max(used[most][side] - used[1][side] for side in used[1])
    return {"1": lambda: {"resident_kb": max(used[1].values()), "kb_a_pair": 0.0},
            str(most): lambda: {"resident_kb": max(used[most].values()), "kb_a_pair": grown / (most - 1)}}


def _sizes(stack: ExitStack, seconds: int) -> dict[str, Callable[[], Figures]]:
    rigs = {}
    for key, contender in (("native", IpsecdNative()), ("no_crypto", IpsecdNoCrypto())):
        if why := contender.missing():
            print(f"{contender.name}: left out: {why}", file=sys.stderr)
            continue
        rig = rigs[key] = stack.enter_context(Rig(watched=False, wan_mtu=JUMBO + _WAN_HEADROOM, lan_mtu=JUMBO))
        contender.connect(rig, stack)
        wait_for_path(rig)
        serve(rig.b)

    def measure(size: int) -> Figures:
        figures = {}
        for key, rig in rigs.items():
            rate = packets_s(rig, seconds, size=size)
            figures |= {f"{key}_packets_s": rate, f"{key}_mbit_s": rate * size * 8 / 1e6}
        return figures
    return {str(size): lambda size=size: measure(size) for size in SIZES}  # type: ignore[misc]


def _flows(stack: ExitStack, seconds: int) -> dict[str, Callable[[], Figures]]:
    rig = stack.enter_context(Rig(watched=False))
    IpsecdNative().connect(rig, stack)
    wait_for_path(rig)
    serve(rig.b)
    return {str(flows): lambda flows=flows: {"tcp_mbit_s": tcp_mbit_s(rig, seconds, flows=flows)}  # type: ignore[misc]
            for flows in FLOWS}
