"""All of IKE on this gateway behind one object: datagrams and requests in, effects and reports out.

A datagram goes  1 header and version  2 protected or clear  3 the IKE SA by our SPI, the attempt by SPIi, or a request
for a new IKE SA  4 that one's own checks.  What is neither is a stranger's: counted, and answered within a rate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from ipsecd.causes import Cause, Failure
from ipsecd.drops import DropReason
from ipsecd.effects import Effect, Emit
from ipsecd.errors import WireError
from ipsecd.events import Hint
from ipsecd.ike.attempt import Attempt, keyed
from ipsecd.ike.child_timers import rekey_child, switch
from ipsecd.ike.deadlines import Deadlines
from ipsecd.ike.ike_sa import IkeSa
from ipsecd.ike.outbound import Outbounds
from ipsecd.ike.picture import picture
from ipsecd.ike.receptionist import BEGIN, Receptionist
from ipsecd.ike.sa_table import LastInbound, SaTable, WallClock, epoch
from ipsecd.ike.session import Authenticated
from ipsecd.ike.sizing import path_evidence
from ipsecd.ike.states import AuthSent
from ipsecd.ike.steps import StepRunner, effect_of
from ipsecd.ike.tasks.addresses import addresses_changed, seen_elsewhere
from ipsecd.ike.tasks.child_create import ChildCreate
from ipsecd.ike.tasks.delete import ChildDelete
from ipsecd.ike.tasks.ike_init import InitResult
from ipsecd.ike.tasks.ike_rekey import rekey_ike
from ipsecd.ike.uniqueness import settle
from ipsecd.ike.wire.header import HEADER_BYTES, IkeHeader
from ipsecd.ike.wire.message import ClearMessage, SealedMessage, split
from ipsecd.policy import PeerPolicy, Policy
from ipsecd.rate import Bucket
from ipsecd.reports import ChildRefused, ChildRequest, IkeFailed, Report
from ipsecd.rng import Rng
from ipsecd.sa import Deadline, LinkSize, Path
from ipsecd.secret import Secret
from ipsecd.views import IkeView

NO_SPI = bytes(8)
IKEV1_PER_S, IKEV1_BURST = 0.1, 3.0         # IKEv1 messages that are looked at and may hint
Resume = Callable[[int, object, float], None]


class IkeEndpoint:
    """See the head of this file; docs/architecture.md has the contract."""

    def __init__(self, policy: Policy, rng: Rng, *, now: float, last_inbound: LastInbound,
                 wall_clock: WallClock = epoch, crash_secret: Secret | None = None) -> None:
        self.drops: dict[DropReason, int] = dict.fromkeys(DropReason, 0)
        self._rng = rng
        self._table = SaTable(policy, rng, last_inbound, wall_clock, crash_secret)
        self._attempts: dict[bytes, Attempt] = {}
        self._desk = Receptionist(self._table, rng, now=now)
        self._deadlines: Deadlines[bytes] = Deadlines()      # by our SPI, of attempts and IKE SAs
        self._effects: list[Effect | Report] = []
        self._work: dict[int, Callable[[object, float], None]] = {}
        self._next_work = 0
        self._outbounds = Outbounds(self._table)
        self._ikev1 = Bucket(per_s=IKEV1_PER_S, burst=IKEV1_BURST, now=now)

    # What the supervisor asks for

    def initiate(self, peer: str, path: Path, requests: tuple[ChildRequest, ...], now: float, origin: str = "") -> int:
        """Start an attempt, `origin` a gateway that sent us here; return the handle of what it leads to."""
        handle = self._table.new_handle()
        entry = self._table.policy.peer(peer)
        if entry is None:
            failure = Failure(Cause.RELOADED, "the peer entry is gone")
            self._effects.append(IkeFailed(handle, peer, refused=False, failure=failure))
            return handle
        spi_i = self._new_spi()
        attempt = Attempt(entry, path, requests, handle=handle, spi_i=spi_i, rng=self._rng, now=now,
                          tickets=self._table.tickets, came_from=origin)
        self._attempts[spi_i] = attempt
        attempt.start(now)
        self._after_attempt(attempt, now)
        return handle

    def create_child(self, handle: int, request: ChildRequest, now: float) -> None:
        """Make one more pair on an IKE SA that is up."""
        sa = self._table.current.get(handle)
        if sa is None or not sa.session.established:
            failure = Failure(Cause.PEER_DELETED, "the IKE SA is gone")
            self._effects.append(ChildRefused(handle, request, single_pair=False, failure=failure))
            return
        sa.session.enqueue(ChildCreate(sa.session, request))
        self._poke(sa, now)

    def rekey_child(self, spi_in: int, now: float) -> None:
        """Replace a pair."""
        sa = self._table.by_child.get(spi_in)
        if sa is not None:
            rekey_child(sa.session, sa.session.children[spi_in])
            self._poke(sa, now)

    def delete_child(self, spi_in: int, now: float, cause: Cause) -> None:
        """Close a pair; it is reported gone once the peer knows."""
        sa = self._table.by_child.get(spi_in)
        if sa is not None:
            named = sa.session.children[spi_in]
            child = sa.session.use_successor_of(named) or named
            sa.session.enqueue(ChildDelete.of(sa.session, child, Failure(cause)))
            self._poke(sa, now)

    def rekey_ike(self, handle: int, now: float) -> None:
        """Replace the IKE SA."""
        sa = self._table.current.get(handle)
        if sa is not None:
            rekey_ike(sa.session)
            self._poke(sa, now)

    def delete_ike(self, handle: int, now: float, cause: Cause) -> None:
        """Close an IKE SA with all it has; an attempt is only forgotten."""
        for attempt in [a for a in self._attempts.values() if a.handle == handle]:
            attempt.abandon(None)
            self._after_attempt(attempt, now)
        sa = self._table.current.get(handle)
        if sa is not None:
            if isinstance(sa.session.state, AuthSent):
                sa.forget(Failure(cause), now)
            else:
                sa.close(Failure(cause), now)
            self._poke(sa, now)

    def check_liveness(self, handle: int, now: float) -> None:
        """Ask whether the peer lives, unless a request is outstanding."""
        sa = self._table.current.get(handle)
        if sa is not None:
            sa.check_liveness()
            self._poke(sa, now)

    # What the engine and the host report

    def path_observed(self, spi_in: int, path: Path, now: float) -> None:
        """An authenticated, fresh packet of a pair came by another path: follow, unless we are behind the NAT."""
        sa = self._table.by_child.get(spi_in)
        if sa is not None and sa.session.established and not sa.session.nat.local:
            seen_elsewhere(sa.session, path)
            self._poke(sa, now)

    def host_changed(self, addresses: frozenset[str], now: float) -> None:
        """Take the addresses of this host: IKE SAs that can (MOBIKE) leave one that is gone."""
        self._table.set_own_addresses(addresses)
        for sa in tuple(self._table.current.values()):
            addresses_changed(sa.session)
            self._poke(sa, now)

    def paths_found(self, handle: int, paths: tuple[Path, ...], now: float) -> None:
        """Take the answer to a Resolve of an IKE SA that looks for another path."""
        sa = self._table.current.get(handle)
        if sa is not None:
            sa.try_paths(paths, now)
            self._poke(sa, now)

    def first_inbound(self, spi_in: int, now: float) -> None:
        """The peer uses a new pair: send on it too."""
        sa = self._table.by_child.get(spi_in)
        if sa is not None:
            switch(sa.session, sa.session.children[spi_in])
            self._poke(sa, now)

    def path_evidence(self, spi_in: int, link: LinkSize | None, now: float) -> None:
        """Take the size of the link that a pair sends by, or (None) that large packets leave on it (ike.sizing)."""
        sa = self._table.by_child.get(spi_in)
        if sa is not None:
            path_evidence(sa.session, link, fragmentation=sa.fragmentation, now=now)
            self._poke(sa, now)

    def unknown_spi(self, path: Path, spi: int, now: float) -> None:
        """ESP came for an SPI that nobody installed: the sender may have missed our restart."""
        self._desk.wayward_esp(path, spi, now)
        self._drain(now)

    def set_addresses(self, peer: str, addresses: tuple[str, ...]) -> None:
        """Take what a peer's names resolve to."""
        self._table.set_addresses(peer, addresses)

    def replace_policy(self, policy: Policy, now: float) -> None:
        """Use another policy from here on; what exists keeps what was negotiated."""
        self._table.replace_policy(policy, now)
        self._drain(now)

    # Datagrams

    def receive(self, datagram: bytes, path: Path, now: float) -> None:
        """Take an IKE datagram without its marker; what it leads nowhere is counted."""
        reason = self._receive(datagram, path, now)
        if reason is not None:
            self.drops[reason] += 1
        self._drain(now)

    def _receive(self, datagram: bytes, path: Path, now: float) -> DropReason | None:
        if len(datagram) < HEADER_BYTES:
            return DropReason.IKE_SHORT
        try:
            header = IkeHeader.parse(datagram)
            if header.major != 2:
                return self._other_version(header, path, now)
            if header.spi_i == NO_SPI:
                return DropReason.IKE_MALFORMED
            if (reason := self._desk.at_the_door(header, datagram, path, now)) is not None:
                return reason
            message = split(datagram, header)
        except WireError:
            return DropReason.IKE_MALFORMED
        if isinstance(message, SealedMessage):
            return self._sealed(message, path, now)
        return self._clear(message, datagram, path, now)

    def _sealed(self, message: SealedMessage, path: Path, now: float) -> DropReason | None:
        header = message.header
        sa = self._table.sas.get(header.spi_r if header.is_initiator else header.spi_i)
        if sa is None or (header.spi_i, header.spi_r) != (sa.session.crypto.spi_i, sa.session.crypto.spi_r):
            return None if self._table.early.keep(message, path) else self._desk.unknown_spi(header, path, now)
        reason = sa.receive(message, path, now)
        self._table.touched.append(sa)
        return reason

    def _clear(self, message: ClearMessage, datagram: bytes, path: Path, now: float) -> DropReason | None:
        header = message.header
        if header.exchange not in BEGIN:
            return self._desk.unprotected(message, path, now)
        if header.message_id != 0:
            return DropReason.IKE_MESSAGE_ID
        if not header.is_response:
            return self._desk.init_request(message, datagram, path, now)
        attempt = self._attempts.get(header.spi_i)
        if attempt is None:
            return DropReason.IKE_UNEXPECTED_RESPONSE
        if header.is_initiator:
            return DropReason.IKE_WRONG_ROLE_FLAG
        reason = attempt.receive(message, datagram, path, now)
        self._after_attempt(attempt, now)
        return reason

    def _other_version(self, header: IkeHeader, path: Path, now: float) -> DropReason:
        if header.major != 1:
            self._desk.refuse_version(header, path, now)
            return DropReason.IKE_VERSION
        if not self._ikev1.take(now):
            return DropReason.IKE_V1               # anybody can send these, from any port of a peer
        failure = Failure(Cause.IKEV1_ONLY, f"an IKEv1 message came from {path.remote}")
        for attempt in [a for a in self._attempts.values() if a.path.remote.address == path.remote.address]:
            attempt.hint(failure, refused=False, now=now)
            self._after_attempt(attempt, now)
        if self._table.is_configured(path.remote.address):
            name = self._table.candidates(path.remote.address)[0].name
            self._effects.append(Emit(Hint(name, str(path), failure)))
        return DropReason.IKE_V1

    # Time and work

    def work_done(self, work_id: int, value: object, now: float) -> None:
        """Take the value of a Work, or the exception that it raised."""
        resume = self._work.pop(work_id, None)
        if resume is not None:
            resume(value, now)
        self._drain(now)

    def handle_timeout(self, now: float, *, most: int | None = None) -> None:
        """Do what is due, of `most` attempts and IKE SAs where given; then next_deadline() says what is left."""
        for spi in self._deadlines.due(now, most):
            attempt, sa = self._attempts.get(spi), self._table.sas.get(spi)
            if attempt is not None:
                attempt.handle_timeout(now)
                self._after_attempt(attempt, now)
            elif sa is not None:
                sa.handle_timeout(now)
                self._table.touched.append(sa)
            self._drain(now)

    def next_deadline(self) -> Deadline | None:
        """Return when handle_timeout has something to do, and what."""
        return self._deadlines.next()

    def take_effects(self) -> list[Effect | Report]:
        """Hand over effects and reports since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def views(self, peers: Collection[str] | None = None) -> tuple[IkeView, ...]:
        """Return the picture of every IKE SA, from its first message on; of these peers only, where they are given."""
        attempts = [a for a in self._attempts.values() if peers is None or a.peer.name in peers]
        sas = self._table.sas.values() if peers is None else [sa for p in peers for sa in self._table.of_peer(p)]
        return (*(a.view() for a in attempts), *(picture(sa) for sa in sas))

    def peer_of(self, handle: int) -> PeerPolicy | None:
        """Return the entry, or its instance, of an IKE SA that is up."""
        sa = self._table.current.get(handle)
        return sa.session.peer if sa else None

    @property
    def half_open(self) -> int:
        """The number of half-open IKE SAs as responder."""
        return len(self._desk.half_opens)

    @property
    def cookies_on(self) -> bool:
        """Whether every new initiator must return a cookie at the moment."""
        return len(self._desk.half_opens) >= self._table.policy.cookie_threshold

    # From attempts and IKE SAs to effects

    def _poke(self, sa: IkeSa, now: float) -> None:
        self._table.touched.append(sa)
        self._drain(now)

    def _after_attempt(self, attempt: Attempt, now: float) -> None:
        self._take_work(attempt.runner, self._attempt_resumer(attempt))
        outputs, attempt.outputs = attempt.outputs, []
        for output in outputs:
            assert not isinstance(output, Authenticated)
            self._effects.append(output)
        deadline = attempt.next_deadline()
        if deadline is not None:
            self._deadlines.arm(attempt.spi_i, deadline.at, deadline.why)
            return
        self._attempts.pop(attempt.spi_i, None)
        self._deadlines.cancel(attempt.spi_i)
        if attempt.result is not None:
            self._begin_auth(attempt, attempt.result, now)

    def _attempt_resumer(self, attempt: Attempt) -> Resume:
        def resume(token: int, value: object, now: float) -> None:
            attempt.resume(token, value, now)
            self._after_attempt(attempt, now)
        return resume

    def _begin_auth(self, attempt: Attempt, result: InitResult, now: float) -> None:
        sa = keyed(self._table, attempt, result, now)
        self._table.add(sa)
        self._table.current[attempt.handle] = sa
        sa.start(now)
        self._drain(now)

    def _drain(self, now: float) -> None:
        """Poke what was touched until nothing is, and hand its outputs up."""
        self._effects += self._desk.take_effects()
        self._take_work(self._desk.runner, self._desk.runner.resume)
        while self._table.touched:
            sa = self._table.touched.pop()
            sa.poke(now)
            authenticated = self._outbounds.translate(sa, self._effects)
            self._take_work(sa.runner, self._resumer(sa))
            if authenticated is not None:
                self._authenticated(sa, authenticated, now)
            self._file(sa)
            for message, path in self._table.early.take(sa.session.crypto.own_spi):
                self._sealed(message, path, now)

    def _resumer(self, sa: IkeSa) -> Resume:
        def resume(token: int, value: object, now: float) -> None:
            sa.resume(token, value, now)
            self._table.touched.append(sa)
        return resume

    def _take_work(self, runner: StepRunner, resume: Resume) -> None:
        for token, job in runner.take_jobs():
            self._next_work += 1
            self._work[self._next_work] = partial(resume, token)
            self._effects.append(effect_of(job, self._next_work))

    def _authenticated(self, sa: IkeSa, signal: Authenticated, now: float) -> None:
        session = sa.session
        self._table.know(sa)
        self._table.current[session.handle] = sa
        self._desk.established(session)
        settle(self._table, sa, initial_contact=signal.initial_contact, now=now)
        for attempt in [a for a in self._attempts.values() if a.peer.name == session.peer.name]:
            # The peer's own IKE SA came first, and ours has no keys yet: nobody will miss it.
            attempt.abandon(Failure(Cause.REPLACED, "the peer's own attempt succeeded"))
            self._after_attempt(attempt, now)

    def _file(self, sa: IkeSa) -> None:
        spi = sa.session.crypto.own_spi
        if sa.dead:
            self._table.remove(sa)
            self._desk.established(sa.session)
            self._deadlines.cancel(spi)
            return
        deadline = sa.next_deadline()
        if deadline is None:
            self._deadlines.cancel(spi)
        else:
            self._deadlines.arm(spi, deadline.at, deadline.why)

    def _new_spi(self) -> bytes:
        while (spi := self._table.new_ike_spi()) in self._attempts:
            pass
        return spi
