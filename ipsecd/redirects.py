"""Where a peer sent us instead of serving us itself (RFC 5685), and how often it may.

The other gateway is tried as the peer's only address until it fails, or what it made ends: then its own count again.
"""

from __future__ import annotations

from collections import deque

from ipsecd.causes import Cause, Failure

# Specification constants: defaults of RFC 5685 8
MAX_REDIRECTS = 5
LOOP_PERIOD_S = 300.0


class Redirects:
    """The redirects of one peer."""

    def __init__(self) -> None:
        self.gateway = ""           # where to go, empty: to the peer's own addresses
        self.came_from = ""         # the address of the gateway that sent us there
        self._under_way = False     # no IKE SA with it yet
        self._times: deque[float] = deque(maxlen=MAX_REDIRECTS)

    def follow(self, gateway: str, came_from: str, now: float) -> Failure | None:
        """Go there next; or return why not, where the peer's gateways send us around."""
        if len(self._times) == MAX_REDIRECTS and now - self._times[0] < LOOP_PERIOD_S:
            return Failure(Cause.REDIRECT_LOOP, f"{MAX_REDIRECTS} times in {now - self._times[0]:.0f} s",
                           ours=f"at most {MAX_REDIRECTS} in {LOOP_PERIOD_S:.0f} s", theirs=gateway, notify="REDIRECT")
        self._times.append(now)
        self.gateway, self.came_from, self._under_way = gateway, came_from, True
        return None

    def names(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Return where the peer is to be looked for, whose own addresses are given."""
        return (self.gateway,) if self.gateway else addresses

    def arrived(self) -> None:
        """An IKE SA with the peer is up."""
        self._under_way = False

    def ended(self) -> None:
        """The last IKE SA with the peer ended: begin at its own addresses, unless we are on our way."""
        if not self._under_way:
            self.home()

    def home(self) -> None:
        """Go to the peer's own addresses."""
        self.gateway, self.came_from, self._under_way = "", "", False
