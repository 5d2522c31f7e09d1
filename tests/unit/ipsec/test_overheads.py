"""The largest inner packet for each size of a path that is used or probed: what leaves fits exactly, in every form."""

from __future__ import annotations

import pytest

from ipsecd.ike.pmtud import MAX_PROBES, PathMtu
from ipsecd.ipsec.dataplane import Dataplane
from ipsecd.ipsec.mtu import IP_HEADER_BYTES, UDP_HEADER_BYTES, inner_mtu
from ipsecd.sa import Endpoint, Path, SaPair, TransportEnds
from ipsecd.suites import AhSuite, ChildSuite, EspSuite
from tests.support import ah_packets as a
from tests.support import esp_packets as p

HOSTS = {4: ("192.0.2.1", "203.0.113.7"), 6: ("2001:db8:a::1", "2001:db8:b::1")}
FORMS: list[tuple[ChildSuite, bool]] = [(suite, udp) for suite in (*p.SUITES, *a.SUITES) if not suite.esn
                                        for udp in (True, False) if isinstance(suite, EspSuite) or not udp]


def probed(link_bytes: int, carried_bytes: int) -> set[int]:
    """Every size that is probed or used on a path of which nobody says that it carries less than its link."""
    machine, sizes, now = PathMtu(version=4, link_bytes=link_bytes, now=0.0), set[int](), 0.0
    while machine.next_at < 60.0:
        now = max(now, machine.next_at)
        wanted = machine.probe_bytes(now)
        sizes |= {wanted, machine.current}
        if wanted <= carried_bytes:
            machine.answered(wanted, wanted, 0.01, now)
        else:
            for _ in range(MAX_PROBES):
                machine.lost(wanted, now)
    return sizes | {machine.current}


SIZES = sorted({576, 9000} | probed(1500, 1500) | probed(1500, 1333) | probed(1492, 1300) | probed(9000, 4444))


@pytest.mark.parametrize("transport", [False, True], ids=["tunnel", "transport"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("suite", "udp"), FORMS, ids=str)
def test_largest_inner_packet_makes_the_largest_datagram_that_fits(suite: ChildSuite, version: int, *, transport: bool,
                                                                   udp: bool) -> None:
    plane = Dataplane(p.SeededRng())
    plane.install_sa(pair_of(suite, version, transport=transport, udp=udp))
    for size in SIZES:
        largest = inner_mtu(suite, outer_mtu=size, outer_version=version, udp=udp, transport=transport)
        fits, beyond = (datagram_bytes(plane, suite, version, length, transport=transport, udp=udp)
                        for length in (largest, largest + 1))
        assert fits <= size < beyond
        if isinstance(suite, AhSuite):
            assert fits == size                    # nothing is padded


def test_sizes_that_are_probed_are_many() -> None:
    assert len(SIZES) > 20
    assert {1280, 1492, 1500} <= set(SIZES)


def datagram_bytes(plane: Dataplane, suite: ChildSuite, version: int, length: int, *, transport: bool,
                   udp: bool) -> int:
    """Seal a packet of this length; return that of the IP datagram."""
    make, header = (p.ipv4, 20) if version == 4 else (p.ipv6, 40)
    hosts = HOSTS[version] if transport else ()
    packet = make(*hosts, payload=p.udp(data=bytes(length - header - 8)))
    assert len(packet) == length
    sealed = plane.seal(plane.sad.by_spi[0x1000], packet, 1.0)
    assert isinstance(sealed, bytes)
    if isinstance(suite, AhSuite):
        return len(sealed)
    return len(sealed) + IP_HEADER_BYTES[version] + (UDP_HEADER_BYTES if udp else 0)


def pair_of(suite: ChildSuite, version: int, *, transport: bool, udp: bool) -> SaPair:
    hosts = HOSTS[version]
    path = Path(*(Endpoint(host, 4500) for host in hosts))
    path = path if udp else path.without_udp()
    if isinstance(suite, EspSuite):
        return p.pair(suite, path=path, transport=TransportEnds(*hosts) if transport else None)
    return a.pair(suite, path=path, hosts=hosts if transport else None)
