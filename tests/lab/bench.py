"""`scripts/bench`: one rig, several tunnels, interleaved; the median of each figure and its ratio to others.

- TCP: one and four flows of iperf3 between the LANs, at the receiver.
- Packets: iperf3 offers 64-byte IP packets (36 bytes of UDP payload) as fast as it can; the far host counts arrivals.
  Both gateways' programs use so much processor time for each. Runs: the same handed to the kernel 64 at a time.
- Latency: the round trip of pings while one TCP flow fills the tunnel.
- Processor: user and system time of both gateways' programs for each gigabit of that flow.

Everything shares this machine's cores, so ratios count and absolute values do not.  `no-crypto` is our own engine
without its ciphers: what the path by itself would let through.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.lab import plot, sweeps
from tests.lab.contenders import CONTENDERS, Contender, wait_for_path
from tests.lab.crowd import report_crowd, report_flood
from tests.lab.handshakes import report_handshakes
from tests.lab.loads import loaded_tcp, serve, small_packets, tcp_mbit_s
from tests.lab.rig import Rig
from tests.support.netns import CommandError

Figures = dict[str, float]
# Key: heading, digits
FIGURES = {"tcp_mbit_s": ("TCP Mbit/s", 0), "tcp4_mbit_s": ("4 flows", 0), "packets_s": ("64 B packets/s", 0),
           "us_packet": ("us/packet", 2), "run_packets_s": ("64 B in runs/s", 0),
           "rtt_p50_ms": ("ping ms", 2), "rtt_p99_ms": ("p99", 2), "cpu_s_gbit": ("CPU s/Gbit", 3),
           "loop_lag_ms": ("loop p99 ms", 1)}
COMPARED = ("tcp_mbit_s", "tcp4_mbit_s", "packets_s", "us_packet", "run_packets_s")
YARDSTICKS = {"strongswan": "x swan", "openvpn": "x ovpn", "wireguard": "x wg", "no-crypto": "x limit"}


def measure(contender: Contender, seconds: int) -> Figures:
    """Build a rig for this contender, run all loads, take it down."""
    with Rig(watched=False) as rig, ExitStack() as stack:
        own_figures = contender.connect(rig, stack)
        wait_for_path(rig)
        serve(rig.b)
        figures = loaded_tcp(rig, seconds)
        figures |= {"tcp4_mbit_s": tcp_mbit_s(rig, seconds, flows=4)} | small_packets(rig, seconds)
        return {key: value for key, value in (figures | own_figures()).items() if key in FIGURES}


def run_rounds(names: list[str], *, rounds: int, seconds: int) -> dict[str, list[Figures]]:
    """Return the figures of each contender, a round after the other so that all see the same weather."""
    found: dict[str, list[Figures]] = {}
    contenders: dict[str, Contender] = {}
    for name in names:
        contenders[name] = CONTENDERS[name]()
        if why := contenders[name].missing():
            print(f"{name}: left out: {why}", file=sys.stderr)
            del contenders[name]
    for number in range(rounds):
        for name, contender in contenders.items():
            try:
                figures = measure(contender, seconds)
            except (AssertionError, CommandError) as error:
                print(f"round {number + 1} {name}: failed: {error}", file=sys.stderr)
                continue
            found.setdefault(name, []).append(figures)
            shown = ", ".join(f"{FIGURES[key][0]} {value:,.{FIGURES[key][1]}f}" for key, value in figures.items())
            print(f"round {number + 1} {name}: {shown}", file=sys.stderr)
    return found


def medians(rounds: dict[str, list[Figures]]) -> dict[str, dict[str, Any]]:
    """Return the median of each figure, and the ratios of rates to those of each yardstick that ran."""
    result: dict[str, dict[str, Any]] = {
        name: {key: statistics.median(r[key] for r in found) for key in found[0]} for name, found in rounds.items()}
    for other in YARDSTICKS:
        for figures in result.values():
            if other in result:
                figures[f"ratio_to_{other}"] = {key: round(figures[key] / result[other][key], 2) for key in COMPARED}
    return result


def table(result: dict[str, dict[str, Any]]) -> str:
    """Return the medians as text, and below each its ratios."""
    lines = [f"{'':28}" + "".join(f"{heading:>15}" for heading, _ in FIGURES.values())]
    for name, figures in result.items():
        cells = [f"{figures[key]:>15,.{digits}f}" if key in figures else f"{'':15}"
                 for key, (_, digits) in FIGURES.items()]
        lines.append(f"{CONTENDERS[name]().name:28}" + "".join(cells))
        for other, label in YARDSTICKS.items():
            if other != name and other in result:
                ratios = figures[f"ratio_to_{other}"]
                lines.append(f"{label:>28}" + "".join(f"{ratios[key]:>15.2f}" for key in COMPARED))
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("contender", nargs="*", default=[], help=f"of {', '.join(CONTENDERS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--handshakes", type=int, metavar="N", help="instead: N IKE handshakes with one responder")
    parser.add_argument("--crowd", type=int, metavar="N", help="instead: N tunnels up at once against one head-end")
    parser.add_argument("--flood", action="store_true", help="instead: tunnels up during 10,000 requests a second")
    parser.add_argument("--sweep", action="append", choices=sweeps.SWEEPS, default=[],
                        help="instead: how the native engine's rates move with one quantity; may be repeated")
    parser.add_argument("--most", type=int, default=10_000, help="the last point of --sweep policies and sas")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--plot", type=Path, metavar="BASE", help="draw BASE.png and BASE.svg (needs matplotlib)")
    return parser


def main() -> int:
    """Run the bench as the command line says; 0 if everything asked for gave figures."""
    parser = arguments()
    options = parser.parse_args()
    if unknown := set(options.contender) - set(CONTENDERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.handshakes:
        print(report_handshakes(options.handshakes))
        return 0
    if os.geteuid():
        parser.error("needs root, for network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))       # a rig takes its namespaces away
    if options.crowd or options.flood:
        print(report_crowd(options.crowd) if options.crowd else report_flood())
        return 0
    if options.plot and (why := plot.missing()):
        parser.error(why)
    names = [] if options.sweep and not options.contender else options.contender or list(CONTENDERS)
    result = medians(run_rounds(names, rounds=options.rounds, seconds=options.seconds))
    swept = {name: sweeps.run(name, rounds=options.rounds, seconds=options.seconds, most=options.most)
             for name in options.sweep}
    if options.plot:
        plot.draw(options.plot, {CONTENDERS[name]().name: figures for name, figures in result.items()}, swept)
    if options.as_json:
        machine = {"kernel": platform.release(), "cores": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps({"machine": machine, "rounds": options.rounds, "seconds": options.seconds, "result": result,
                          "sweeps": swept}, indent=2))
    else:
        print("\n\n".join(([table(result)] if result else []) + [sweeps.table(*found) for found in swept.items()]))
    return 0 if set(result) == set(names) else 1


if __name__ == "__main__":
    sys.exit(main())
