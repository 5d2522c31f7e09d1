"""What an IKE SA knows of NATs on its path, and what follows from it for ESP (RFC 7296 2.23)."""

from __future__ import annotations

from dataclasses import dataclass

from ipsecd.causes import Cause, Failure
from ipsecd.ike.consts import ProtocolId
from ipsecd.policy import Encapsulation
from ipsecd.sa import Path

IKE_PORT = 500
NAT_PORT = 4500                 # RFC 3947 4, RFC 7296 2.23


@dataclass(frozen=True, slots=True)
class Nat:
    """Which end is behind a NAT.

    `supported` where the peer does NAT traversal; without, IKE stays at port 500 and ESP has no UDP.  `honest` where
    we told it our true source, so that it does not take us for an end behind a NAT.
    """

    local: bool = False
    remote: bool = False
    supported: bool = True
    honest: bool = False

    @property
    def between(self) -> bool:
        """Whether there is one between the two ends."""
        return self.local or self.remote

    def __str__(self) -> str:
        if not self.supported:
            return "unknown"
        return {(False, False): "none", (True, False): "local", (False, True): "remote"}.get(
            (self.local, self.remote), "both")


def with_ike_ports(path: Path) -> Path:
    """Return the path of IKE beside that of ESP without UDP, as far as a stranger's is known."""
    return Path(path.local._replace(port=IKE_PORT), path.remote._replace(port=IKE_PORT))


def without_udp(nat: Nat, wanted: Encapsulation, path: Path) -> bool:
    """Return whether ESP goes as such: where the peer refuses NAT traversal, or as policy wants and no NAT is known.

    A peer that believes us behind a NAT may take nothing but UDP.  A NAT that came into the path later shows by its
    port, before NAT detection is repeated.
    """
    if not nat.supported:
        return True
    straight = path.remote.port in (IKE_PORT, NAT_PORT)
    return wanted is Encapsulation.RAW and nat.honest and not nat.between and straight


def no_ah(nat: Nat, protocol: int) -> Failure | None:
    """Return why a pair of this protocol cannot be: AH covers the outer addresses (RFC 4302 3.3.3.1.1)."""
    if protocol != ProtocolId.AH or not nat.between:
        return None
    return Failure(Cause.AH_BEHIND_NAT, f"NAT detection says: {nat}")


def why_udp(nat: Nat, path: Path) -> str:
    """Return why ESP goes in UDP, where policy wants it without."""
    if nat.between:
        return f"there is a NAT ({nat})"
    return (f"the peer sends from port {path.remote.port}, so there is a NAT" if nat.honest
            else "the peer was told that there is a NAT, for another entry with its address asks for UDP")
