"""Whoever spoofs: IKE_SA_INIT requests at a bounded rate, for a bounded time, each from another address.

    with Spoofer(rig, seconds=6) as flood:
        ...                              # the right gateway gets 10,000 a second meanwhile
    flood.sent

The requests are good ones, so each would cost a key exchange if it got in.  They leave by a raw socket of the WAN
router, in a process of its own; answers to the invented addresses end there too.
"""

from __future__ import annotations

import ipaddress
import mmap
import os
import socket
import struct
import time
from typing import Self

from ipsecd.effects import SendIke, Work
from ipsecd.ike.endpoint import IkeEndpoint
from ipsecd.policy import Policy
from ipsecd.runtime.entropy import SystemRng
from ipsecd.sa import Endpoint, Path
from tests.lab.rig import Rig

INVENTED = ipaddress.ip_network("198.18.0.0/15")     # RFC 2544: for benchmarks, nobody's
PER_S = 10_000
_TURN_S = 0.002
_IPV4 = struct.Struct("!BBHHHBBH4s4s")               # the kernel fills in length, ID and checksum
_UDP = struct.Struct("!HHHH")                        # no checksum: IPv4 allows it


class Spoofer:
    """A flood of the right gateway of a rig; every second request comes from `also` where that is given."""

    def __init__(self, rig: Rig, request: bytes, *, seconds: float, also: str = "") -> None:
        self._rig = rig
        self._request = request
        self._seconds = seconds
        self._also = socket.inet_aton(also) if also else None
        self._sent = mmap.mmap(-1, 8)
        self._child = 0

    @property
    def sent(self) -> int:
        """Requests sent so far."""
        return int.from_bytes(self._sent[:8], "little")

    def __enter__(self) -> Self:
        self._rig.wan.ip(f"route add blackhole {INVENTED}")
        self._child = self._rig.wan.spawn(self._pour)
        return self

    def __exit__(self, *_: object) -> None:
        self._rig.wan.end(self._child)
        self._rig.wan.ip(f"route del blackhole {INVENTED}")

    def _pour(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            target = socket.inet_aton(self._rig.b.wan4)
            udp = _UDP.pack(500, 500, _UDP.size + len(self._request), 0)
            invented, start, sent = int(INVENTED.network_address), time.monotonic(), 0
            while (passed := time.monotonic() - start) < self._seconds:
                while sent < passed * PER_S:
                    number = sent % (INVENTED.num_addresses - 2) + 1
                    source = self._also if self._also and sent % 2 else (invented + number).to_bytes(4, "big")
                    packet = (_IPV4.pack(0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0, source, target) + udp
                              + os.urandom(8) + self._request[8:])
                    sock.sendto(packet, (self._rig.b.wan4, 0))
                    sent += 1
                self._sent[:8] = sent.to_bytes(8, "little")
                time.sleep(_TURN_S)


def first_request(policy: Policy, *, local: str, remote: str) -> bytes:
    """Return the IKE_SA_INIT with which the first peer of a policy is called."""
    endpoint = IkeEndpoint(policy, SystemRng(), now=0.0, last_inbound=lambda _: None)
    endpoint.initiate(policy.peers[0].name, Path(Endpoint(local, 500), Endpoint(remote, 500)), (), 0.0)
    while True:
        for effect in endpoint.take_effects():
            match effect:
                case SendIke(datagram=datagram):
                    return datagram
                case Work(id=number, job=job):
                    endpoint.work_done(number, job(), 0.0)
                case _:
                    pass
