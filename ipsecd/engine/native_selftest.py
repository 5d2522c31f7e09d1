"""What the native engine must prove before it carries anything: each suite, both ways, against ipsec.esp and ipsec.ah;
and that what is wrong comes to nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ipsecd.drops import DropReason
from ipsecd.engine.native import key_arguments, path_tuple
from ipsecd.engine.native_plane import NativePlane
from ipsecd.ipsec.ah import Ah
from ipsecd.ipsec.esp import TRAILERS, make_open, make_seal
from ipsecd.rng import Rng
from ipsecd.sa import Endpoint, Path, SaSpec
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, GMACS, INTEGS, AhSuite, ChildSuite, EspSuite

_SPI_IN, _SPI_OUT = 0x1001, 0x2002
_CHILD, _DEVICE = 0, 0
_PATH = Path(Endpoint("192.0.2.1", 4500), Endpoint("203.0.113.7", 4500))
_ANY = [(4, 0, 2**32 - 1, 0, 0, 65535)]
# 10.1.0.1 to 10.2.0.1, UDP 1234 to 5060, four bytes of data
_OUT = bytes.fromhex("4500002000074000 40110000 0a010001 0a020001 04d213c4 000c0000 64617461".replace(" ", ""))
_IN = _OUT[:12] + _OUT[16:20] + _OUT[12:16] + _OUT[20:]


_NOT_SENT = "a packet that policy protects was not sent"
_NOT_RIGHT = "what it sealed is not what it must be"


class _FixedRng:
    """IVs of a test that protects nothing."""

    def random_bytes(self, count: int) -> bytes:
        """Return what needs not be secret here."""
        return bytes(range(count))

    def uniform(self, low: float, high: float) -> float:
        """Return any value of the range."""
        return low


def self_test(new_plane: Callable[[], NativePlane]) -> str:
    """Return which suite failed and how, or nothing."""
    suites: list[ChildSuite] = [EspSuite(encr, integ, esn) for encr in ENCRS
                                for integ in ((None,) if encr.aead else INTEGS) for esn in (False, True)]
    suites += [AhSuite(integ, esn) for integ in (*INTEGS, *GMACS) for esn in (False, True)]
    for suite in suites:
        failed = (_test_esp(new_plane(), suite, _FixedRng()) if isinstance(suite, EspSuite)
                  else _test_ah(new_plane(), suite))
        if failed:
            return f"the native engine failed its self test: {suite}: {failed}"
    return ""


def _sent(plane: NativePlane, suite: ChildSuite, inbound: SaSpec, outbound: SaSpec, path: Path) -> bytes:
    """Install a pair and return what becomes of a packet, nothing where it is not sent."""
    plane.add_device(_DEVICE, None)
    plane.replace_policy([("protect", _CHILD, None, _ANY, _ANY)], {})
    plane.install_sa({
        "child": _CHILD, "slot": 0, "device": _DEVICE, "local": _ANY, "remote": _ANY, "path": path_tuple(path),
        "window": 64, "follow": False, "volume": (0, 0, 0, 0), "tfc": (0, False),
        "transport": None,
        **key_arguments(suite, inbound, outbound)})
    plane.use_outbound(_CHILD, _SPI_IN)
    sent = plane.step_out(_DEVICE, _OUT, False, 1.0)
    return sent[0][2] if len(sent) == 1 else b""


def _test_esp(plane: NativePlane, suite: EspSuite, rng: Rng) -> str:
    inbound, outbound, path = _spec(suite, _SPI_IN), _spec(suite, _SPI_OUT), path_tuple(_PATH)
    datagram = _sent(plane, suite, inbound, outbound, _PATH)
    if not datagram:
        return _NOT_SENT
    plaintext = make_open(suite, outbound, rng).open(datagram, 0, len(datagram), 1)
    if plaintext is None or not plaintext.startswith(_OUT):
        return _NOT_RIGHT
    sealed = make_seal(suite, inbound, rng).seal(_IN, TRAILERS[4], 1)
    forged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    delivered = [plane.step_in(data, len(data), 0, path, 1.0) for data in (forged, sealed, sealed)]
    return _judged(plane, delivered, DropReason.ESP_BAD_ICV, DropReason.ESP_REPLAYED)


def _test_ah(plane: NativePlane, suite: AhSuite) -> str:
    inbound, outbound = _spec(suite, _SPI_IN), _spec(suite, _SPI_OUT)
    there = _PATH.without_udp()
    if _sent(plane, suite, inbound, outbound, there) != Ah(suite, outbound).seal(_OUT, there, 1):
        return _NOT_RIGHT
    sealed = Ah(suite, inbound).seal(_IN, Path(there.remote, there.local), 1)
    forged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    delivered = [plane.step_in_ah(packet, path_tuple(there), 1.0) for packet in (forged, sealed, sealed)]
    return _judged(plane, delivered, DropReason.AH_BAD_ICV, DropReason.AH_REPLAYED)


def _judged(plane: NativePlane, delivered: list[list[tuple[int, bytes]]], *reasons: DropReason) -> str:
    """Judge what became of a forged packet, a good one and its copy."""
    if delivered != [[], [(_DEVICE, _IN)], []]:
        return "what was sealed for it does not open, or does when it must not"
    return "" if dict(plane.drops()) == dict.fromkeys(reasons, 1) else "drops are not counted as they must be"


def _spec(suite: ChildSuite, spi: int) -> SaSpec:
    encr_bytes, integ_bytes = suite.key_bytes
    key = bytes((spi + n) & 0xFF for n in range(encr_bytes + integ_bytes))
    return SaSpec(spi, Secret(key[:encr_bytes]), Secret(key[encr_bytes:]))
