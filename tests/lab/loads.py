"""What the bench sends over a rig's tunnel, and what it measures of it.  All rates are what the far side received."""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from subprocess import DEVNULL, PIPE

from tests.lab.rig import Rig, Site
from tests.support.netns import Node, eventually, run

PORT, SINK_PORT = 5201, 5202
SMALL_PAYLOAD = 36                               # bytes of UDP payload in an IPv4 packet of 64
UDP_HEADERS = 28                                 # of IPv4 and UDP
PINGS = 200
_TICKS = os.sysconf("SC_CLK_TCK")
_RTT = re.compile(r"time=([\d.]+) ms")
_WARM_UP_S = 1

# Sends small datagrams to the first hosts of N networks of four addresses, in turn; ends when it is killed.
_SPREAD = """
import ipaddress, socket, sys
first, count, payload = int(ipaddress.ip_address(sys.argv[1])), int(sys.argv[2]), bytes(int(sys.argv[3]))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ends = [(str(ipaddress.ip_address(first + 4 * n)), int(sys.argv[4])) for n in range(count)]
while True:
    for end in ends:
        try:
            sock.sendto(payload, end)
        except OSError:
            pass
"""


# Hands the kernel runs of 64 small datagrams (UDP_SEGMENT), as servers of QUIC do; ends when it is killed.
_RUNS = """
import socket, sys
target, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_UDP, 103, size)
sock.connect((target, port))
while True:
    try:
        sock.send(bytes(64 * size))
    except OSError:
        pass
"""


def serve(site: Site) -> None:
    """Let the host of a site answer iperf3, and take datagrams that nobody reads."""
    site.host.popen("iperf3", "-s", "-p", str(PORT), stdout=DEVNULL, stderr=DEVNULL)
    site.host.udp("0.0.0.0", SINK_PORT)
    time.sleep(0.3)


def tcp_mbit_s(rig: Rig, seconds: int, *, flows: int = 1, target: str = "") -> float:
    """Return what TCP carried, the first second left out."""
    _wait_for_server(rig.b)
    text = rig.a.host.run("iperf3", "-J", "-O", str(_WARM_UP_S), "-t", str(seconds), "-P", str(flows), "-c",
                          target or rig.b.host4)
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"]) / 1e6


def packets_s(rig: Rig, seconds: int, *, size: int = UDP_HEADERS + SMALL_PAYLOAD, target: str = "") -> float:
    """Return how many UDP packets of `size` bytes a second arrived in the middle of a flood of one flow."""
    payload = size - UDP_HEADERS
    _wait_for_server(rig.b)
    flood = rig.a.host.popen("iperf3", "-u", "-b", "0", "-l", str(payload), "-t", str(seconds + 2), "-c",
                             target or rig.b.host4, stdout=DEVNULL, stderr=DEVNULL)
    try:
        return _arrivals(rig.b, seconds)
    finally:
        flood.terminate()
        flood.wait()


def small_packets(rig: Rig, seconds: int) -> dict[str, float]:
    """Return how many 64-byte packets a second arrived, and what each cost both gateways' programs in microseconds.

    The sender gives each its own system call and is what sets the rate: kernel and iperf3 cost it more than a packet
    costs an engine.  So the same packets come in runs, too, for which the engines set it.
    """
    before, start = processor_s(rig.a.gateway) + processor_s(rig.b.gateway), received_packets(rig.b)
    rate = packets_s(rig, seconds)
    used = processor_s(rig.a.gateway) + processor_s(rig.b.gateway) - before
    figures = {"packets_s": rate, "us_packet": 1e6 * used / (received_packets(rig.b) - start)}
    flood = rig.a.host.popen(sys.executable, "-c", _RUNS, rig.b.host4, str(SINK_PORT), str(SMALL_PAYLOAD))
    try:
        return figures | {"run_packets_s": _arrivals(rig.b, seconds)}
    finally:
        flood.kill()
        flood.wait()


def _wait_for_server(site: Site) -> None:
    """Wait until iperf3 has noticed that the load before has ended: it refuses a second one."""
    if not eventually(lambda: not site.host.run("ss", "-Htn", "state", "established", f"sport = :{PORT}"), within_s=20):
        raise AssertionError("iperf3 serves a load that has ended")


def spread_packets_s(rig: Rig, seconds: int, *, first: str, count: int) -> float:
    """Return how many 64-byte packets a second arrived of a flood to `count` addresses, four apart, from `first` on."""
    flood = rig.a.host.popen(sys.executable, "-c", _SPREAD, first, str(count), str(SMALL_PAYLOAD), str(SINK_PORT))
    try:
        return _arrivals(rig.b, seconds)
    finally:
        flood.kill()
        flood.wait()


def _arrivals(site: Site, seconds: float) -> float:
    time.sleep(_WARM_UP_S)
    before, start = received_packets(site), time.monotonic()
    time.sleep(seconds)
    return (received_packets(site) - before) / (time.monotonic() - start)


def received_packets(site: Site) -> int:
    """Return how many UDP datagrams reached the host of a site so far, taken or not: its interface counts joined ones
    as one.
    """
    names, values = (line.split()[1:] for line in site.host.run("cat", "/proc/net/snmp").splitlines()
                     if line.startswith("Udp:"))
    counters = dict(zip(names, map(int, values), strict=True))
    return counters["InDatagrams"] + counters["InErrors"]


def loaded_tcp(rig: Rig, seconds: int) -> dict[str, float]:
    """Return what one TCP flow carried, the round trip of pings beside it, and the processor time of both gateways'
    programs for each gigabit.  What the kernel does outside of a program's time is not in it.
    """
    before = processor_s(rig.a.gateway) + processor_s(rig.b.gateway)
    pings = rig.a.host.popen("ping", "-n", "-i", "0.01", "-c", str(PINGS), "-W", "2", rig.b.host4, stdout=PIPE,
                             stderr=DEVNULL)
    rate = tcp_mbit_s(rig, seconds)
    used = processor_s(rig.a.gateway) + processor_s(rig.b.gateway) - before
    said = pings.communicate()[0].decode()
    times = sorted(float(found) for found in _RTT.findall(said))
    if len(times) < PINGS // 2:
        raise AssertionError(f"of {PINGS} pings beside a TCP flow {len(times)} were answered")
    carried_gbit = rate * (seconds + _WARM_UP_S) / 1000
    return {"tcp_mbit_s": rate, "rtt_p50_ms": statistics.median(times), "rtt_p99_ms": times[len(times) * 99 // 100],
            "cpu_s_gbit": used / carried_gbit}


def processor_s(node: Node) -> float:
    """Return the processor time, user and system, of all programs that run in a node."""
    total = 0
    for pid in run("ip", "netns", "pids", node.namespace).split():
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS
