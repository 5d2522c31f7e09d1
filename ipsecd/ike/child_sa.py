"""One Child SA: its pair as the engine knows it, its state, and when it is renewed (RFC 7296 2.8, 2.17)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipsecd.ike.collisions import Nonces
from ipsecd.ike.consts import ProtocolId
from ipsecd.ike.crypto.keymat import ChildKeys
from ipsecd.ike.states import ChildState, check_child_transition
from ipsecd.policy import ChildPolicy, Mode
from ipsecd.rng import Rng
from ipsecd.sa import NO_TFC, Path, SaPair, SaSpec, Tfc, TransportEnds
from ipsecd.selectors import TrafficSelector
from ipsecd.suites import ChildSuite
from ipsecd.views import PairView

# Tuning
SWITCH_S = 2.0                  # the initiator of a rekey sends on the new SA within a round trip
LINGER_S = 5.0                  # packets on their way arrive within seconds, or never
LIFETIME_JITTER = 0.1           # both ends often have equal lifetimes: few collisions (RFC 7296 2.8)
HARD_MARGIN = 0.1               # what a rekey that fails has for its retries: the larger of this part
MIN_HARD_MARGIN_S = 180.0       # and this time


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When to rekey and when to close, in seconds of the gateway's clock."""

    rekey_at: float
    expires_at: float


def lifetime(rng: Rng, *, since: float, soft_s: float) -> Lifetime:
    """Return the times of an SA made at `since` with a soft lifetime of `soft_s` seconds, jittered."""
    soft = soft_s * rng.uniform(1 - LIFETIME_JITTER, 1 + LIFETIME_JITTER)
    return Lifetime(since + soft, since + soft + max(soft_s * HARD_MARGIN, MIN_HARD_MARGIN_S))


@dataclass(slots=True)
class ChildSa:
    """A Child SA of one IKE SA; `nonces` are those of the exchange that made it."""

    pair: SaPair
    policy: ChildPolicy
    nonces: Nonces
    since: float
    life: Lifetime
    state: ChildState = ChildState.UP
    successor: int | None = None    # inbound SPI of the pair that replaced this one
    replaces: int | None = None     # inbound SPI of the pair that this one replaces, while it is Arriving
    heard: bool = False             # the peer sends on it, or had time enough to

    @property
    def spi_in(self) -> int:
        """The inbound SPI, ours."""
        return self.pair.inbound.spi

    @property
    def spi_out(self) -> int:
        """The outbound SPI, the peer's."""
        return self.pair.outbound.spi

    @property
    def protocol(self) -> int:
        """ESP or AH."""
        return self.pair.suite.protocol

    @property
    def live(self) -> bool:
        """True while the pair may carry our traffic."""
        return self.state in (ChildState.ARRIVING, ChildState.UP, ChildState.REKEYING)

    def move(self, new: ChildState) -> None:
        """Enter a state; raise LocalError where the table does not allow it."""
        check_child_transition(self.state, new)
        self.state = new

    def moved_to(self, path: Path) -> None:
        """Follow the IKE SA to another path."""
        self.pair = replace(self.pair, path=path.without_udp() if self.protocol == ProtocolId.AH else path)

    def view(self) -> PairView:
        """Return the picture for status."""
        pair = self.pair
        return PairView(pair.child, pair.slot, self.spi_in, self.spi_out, self.state.name.lower(), str(pair.suite),
                        tuple(map(str, pair.ts_local)), tuple(map(str, pair.ts_remote)), self.since,
                        self.life.rekey_at, self.life.expires_at,
                        Mode.TUNNEL if pair.transport is None else Mode.TRANSPORT)


@dataclass(frozen=True, slots=True)
class Agreed:
    """What an exchange agreed about a pair, before keys."""

    suite: ChildSuite
    spi_in: int
    spi_out: int
    ts_local: tuple[TrafficSelector, ...]
    ts_remote: tuple[TrafficSelector, ...]
    transport: TransportEnds | None = None
    padding: bool = True            # the peer takes TFC padding (RFC 7296 3.10.1)


def build_pair(agreed: Agreed, policy: ChildPolicy, *, slot: int, keys: ChildKeys, initiator: bool, path: Path,
               follow: bool, device: str) -> SaPair:
    """Return the pair for the engine; `initiator` is our role in the exchange (RFC 7296 2.17 orders keys by it)."""
    sent_i = SaSpec(agreed.spi_out if initiator else agreed.spi_in, keys.encr_i, keys.integ_i)
    sent_r = SaSpec(agreed.spi_in if initiator else agreed.spi_out, keys.encr_r, keys.integ_r)
    outbound, inbound = (sent_i, sent_r) if initiator else (sent_r, sent_i)
    return SaPair(policy.key, slot, agreed.suite, inbound, outbound, agreed.ts_local, agreed.ts_remote, path,
                  policy.replay_window, follow and policy.replay_window > 0, policy.volume, device, agreed.transport,
                  tfc=_tfc(agreed, policy))


def _tfc(agreed: Agreed, policy: ChildPolicy) -> Tfc:
    """Return what of it the peer takes: all or nothing."""
    return policy.tfc if agreed.padding else NO_TFC
