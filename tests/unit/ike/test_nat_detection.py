"""Who is behind a NAT, by the hashes that the peer sent (RFC 7296 2.23)."""

from __future__ import annotations

import pytest

from ipsecd.ike.consts import NotifyType
from ipsecd.ike.crypto.nat_hash import nat_detection_hash
from ipsecd.ike.nat import Nat
from ipsecd.ike.tasks.nat_detection import detect, nat_payloads
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.sa import Endpoint, Path

SPI_I, SPI_R = b"initiate", b"responds"
OURS, PEER = Endpoint("203.0.113.2", 500), Endpoint("192.0.2.1", 500)
MAPPED, INSIDE = Endpoint("198.51.100.1", 40000), Endpoint("10.9.9.9", 500)
SOURCE, DESTINATION = NotifyType.NAT_DETECTION_SOURCE_IP, NotifyType.NAT_DETECTION_DESTINATION_IP


def told(source: Endpoint, destination: Endpoint) -> tuple[NotifyPayload, NotifyPayload]:
    """Return what a peer of another kind says: its own address and port, and where it sends to."""
    return (NotifyPayload(SOURCE, nat_detection_hash(SPI_I, SPI_R, *source)),
            NotifyPayload(DESTINATION, nat_detection_hash(SPI_I, SPI_R, *destination)))


@pytest.mark.parametrize(("sent", "seen_from", "seen_at", "found"), [
    ((PEER, OURS), PEER, OURS, Nat(local=False, remote=False)),
    ((INSIDE, OURS), MAPPED, OURS, Nat(local=False, remote=True)),          # the peer is behind one
    ((PEER, MAPPED), PEER, OURS, Nat(local=True, remote=False)),            # we are: it sends to our outside
    ((INSIDE, MAPPED), Endpoint("198.51.100.9", 1), OURS, Nat(local=True, remote=True)),
    ((PEER, OURS), PEER._replace(port=40000), OURS, Nat(local=False, remote=True)),  # the port alone was changed
], ids=["none", "peer", "we", "both", "port"])
def test_hashes_tell_which_end_is_behind_a_nat(sent: tuple[Endpoint, Endpoint], seen_from: Endpoint, seen_at: Endpoint,
                                               found: Nat) -> None:
    assert detect(told(*sent), spi_i=SPI_I, spi_r=SPI_R, path=Path(seen_at, seen_from), true=False) == found


def test_one_of_several_source_hashes_is_enough() -> None:
    _, destination = told(PEER, OURS)
    sources = [told(Endpoint(f"192.0.2.{n}", 500), OURS)[0] for n in (7, 1, 9)]
    path = Path(OURS, PEER)
    assert detect((*sources, destination), spi_i=SPI_I, spi_r=SPI_R, path=path, true=False) == Nat()
    assert detect((*sources[:1], destination), spi_i=SPI_I, spi_r=SPI_R, path=path, true=False) == Nat(remote=True)


@pytest.mark.parametrize("size", [0, 1, 19, 21, 64])
def test_hash_of_another_size_matches_nothing(size: int) -> None:
    odd = NotifyPayload(SOURCE, bytes(size)), NotifyPayload(DESTINATION, bytes(size))
    assert detect(odd, spi_i=SPI_I, spi_r=SPI_R, path=Path(OURS, PEER), true=False) == Nat(local=True, remote=True)


@pytest.mark.parametrize("missing", [SOURCE, DESTINATION])
def test_peer_that_sends_only_one_kind_does_no_nat_traversal(missing: NotifyType) -> None:
    left = [p for p in told(PEER, OURS) if p.type != missing]
    assert detect(left, spi_i=SPI_I, spi_r=SPI_R, path=Path(OURS, PEER), true=False) == Nat(supported=False)


def test_our_own_hashes_make_others_encapsulate_and_tell_our_kind_the_truth() -> None:
    ours = nat_payloads(spi_i=SPI_I, spi_r=SPI_R, path=Path(PEER, OURS), true=False)
    assert ours[0].data != told(PEER, OURS)[0].data, "a peer of another kind must take us for one behind a NAT"
    assert ours[1].data == told(PEER, OURS)[1].data
    assert detect(ours, spi_i=SPI_I, spi_r=SPI_R, path=Path(OURS, PEER), true=False) == Nat(local=False, remote=False)
    assert detect(ours, spi_i=SPI_I, spi_r=SPI_R, path=Path(OURS, MAPPED), true=False) == Nat(local=False, remote=True)


def test_true_hashes_tell_everybody_the_same() -> None:
    assert nat_payloads(spi_i=SPI_I, spi_r=SPI_R, path=Path(PEER, OURS), true=True) == told(PEER, OURS)
    assert detect(told(PEER, OURS), spi_i=SPI_I, spi_r=SPI_R, path=Path(OURS, PEER), true=True) == Nat(honest=True)
