"""The compiled module `ipsecd.engine._native`, as Python sees it (native/src/python.rs)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

INTERFACE = 6                                      # of the compiled module; one that is older or newer is not used


class NativePlane(Protocol):
    """The class `Engine` of the compiled module; see src/python.rs."""

    def descriptor(self) -> int:
        """Return what is readable while there are reports."""
        ...

    def add_tun(self, device: int, queues: Sequence[int], interface: int | None, vnet: bool, joins_udp: bool, /
                ) -> None:
        """Read the queues of a device, a thread each; `interface` is the ingress interface that it serves."""
        ...

    def remove_tun(self, device: int, /) -> None:
        """Let go of a device; on return no thread uses it."""
        ...

    def add_device(self, device: int, interface: int | None, /) -> None:
        """Know a device without reading it."""
        ...

    def add_socket(self, address: object, port: int, protocol: int, fd: int, /) -> None:
        """Read a socket of an IP protocol, bound to this address and port (0 where it has none), in a thread."""
        ...

    def remove_socket(self, address: object, protocol: int, /) -> None:
        """Let go of a socket; on return no thread uses it."""
        ...

    def set_own_addresses(self, addresses: Sequence[object], /) -> None:
        """Set our outside addresses, which otherwise are those of the sockets."""
        ...

    def install_sa(self, pair: Mapping[str, object], /) -> None:
        """Install a pair; ValueError for keys that do not fit, KeyError for a key of the mapping that is not there."""
        ...

    def use_outbound(self, child: int, spi_in: int, /) -> None:
        """Send the slot's traffic on this pair, and what was held."""
        ...

    def update_path(self, spi_in: int, path: object, /) -> None:
        """Send the pair's packets over another path."""
        ...

    def remove_sa(self, spi_in: int, /) -> tuple[tuple[Any, ...], list[tuple[str, int]]] | None:
        """Forget a pair; return SaStats' fields and its drops."""
        ...

    def abandon_held(self, child: int, /) -> None:
        """Drop what is held for a child."""
        ...

    def replace_policy(self, entries: Sequence[object], inner_mtus: Mapping[int, int], /) -> None:
        """Replace the SPD: (action, child, interface, local selectors, remote selectors) each."""
        ...

    def send(self, path: object, datagram: bytes, /) -> None:
        """Send a datagram that is no ESP."""
        ...

    def inject(self, child: int, packet: bytes, /) -> bool:
        """Send an inner packet; False when the child has no SA for it."""
        ...

    def send_dummy(self, spi_in: int, size: int, /) -> bool:
        """Send a packet that the peer discards; False for a pair that is not there or ended."""
        ...

    def last_inbound(self, spi_in: int, /) -> float | None:
        """Return the time of the last authenticated packet."""
        ...

    def pairs(self) -> tuple[dict[int, tuple[Any, ...]], dict[int, list[tuple[str, int]]]]:
        """Return SaStats' fields and drops of all pairs by inbound SPI."""
        ...

    def drops(self) -> list[tuple[str, int]]:
        """Return all drops."""
        ...

    def held_packets(self) -> list[tuple[int, int]]:
        """Return how many packets each waiting child holds."""
        ...

    def overflows(self) -> tuple[list[tuple[object, int, int]], int]:
        """Return datagrams lost by the kernel for each socket (address, protocol), and unexpected ECN combinations."""
        ...

    def take_reports(self, most: int, /) -> list[tuple[Any, ...]]:
        """Return reports, each a tuple that begins with its kind."""
        ...

    def step_out(self, device: int, frame: bytes, vnet: bool, now: float, /
                 ) -> list[tuple[Any, int, bytes]]:
        """Carry a frame as a device's thread would; return (path, TOS, datagram) instead of sending."""
        ...

    def step_in(self, data: bytes, segment: int, tos: int, path: object, now: float, /
                ) -> list[tuple[int, bytes]]:
        """Take a socket's read as its thread would; return (device, packet) instead of writing."""
        ...

    def step_in_ah(self, data: bytes, path: object, now: float, /) -> list[tuple[int, bytes]]:
        """Take a whole IP packet with AH as the thread of its socket would."""
        ...

    def close(self) -> None:
        """Stop all threads and let go of all descriptors."""
        ...



def load() -> Callable[[], NativePlane]:
    """Return what makes a data plane.  Raises ImportError where the module was not built, or is of another version."""
    module: Any = importlib.import_module("ipsecd.engine._native")
    if getattr(module, "INTERFACE", None) != INTERFACE:
        raise ImportError("the compiled module is of another version than ipsecd; install the package again")
    engine: Callable[[], NativePlane] = module.Engine
    return engine
