"""Answering INFORMATIONAL (RFC 7296 1.4, 1.4.1, 2.25): deletes, errors, and nothing at all."""

from __future__ import annotations

from ipsecd.causes import Cause, Failure
from ipsecd.ike.child_sa import ChildSa
from ipsecd.ike.consts import ExchangeType, NotifyType, ProtocolId
from ipsecd.ike.crypto.sk_payload import OpenedMessage
from ipsecd.ike.failures import refused_ike
from ipsecd.ike.session import Session
from ipsecd.ike.states import ChildState
from ipsecd.ike.steps import Steps
from ipsecd.ike.tasks.addresses import answer_addresses
from ipsecd.ike.tasks.auth_lifetime import take_lifetime
from ipsecd.ike.tasks.child_create import ChildCreate
from ipsecd.ike.tasks.child_rekey import ChildRekey, rekey_of
from ipsecd.ike.tasks.crash_detection import take_token
from ipsecd.ike.tasks.ike_rekey import IkeRekey, adopt_rival
from ipsecd.ike.tasks.redirect import sent_on
from ipsecd.ike.tasks.task import Answer, Payloads
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import find
from ipsecd.ike.wire.payloads import DeletePayload
from ipsecd.suites import CHILD_PROTOCOLS

BY_PEER = Failure(Cause.PEER_DELETED)


class InformationalAnswer(Answer):
    """Deletes are gathered first and done in order, each looked up again: one message may name a pair twice."""

    def process(self, request: OpenedMessage, now: float) -> Steps[Payloads]:
        """Return D with the reverse SPIs of the pairs that go, or nothing."""
        yield from ()
        take_token(self.session, request.payloads)
        take_lifetime(self.session, request.payloads, now)
        about = answer_addresses(self.session, request, now)
        deletes = [p for p in request.payloads if isinstance(p, DeletePayload)]
        if any(d.protocol == ProtocolId.IKE for d in deletes):
            self._delete_ike(now)
            return about
        refused = find(request.payloads, NotifyType.AUTHENTICATION_FAILED)
        if refused is not None:
            # RFC 7296 2.21.2: the initiator does not accept our proof; for it the IKE SA never was.
            self.session.ended = refused_ike(refused)
            return about
        sent_on(self.session, request.payloads, ExchangeType.INFORMATIONAL)
        answers: list[Payload] = []
        for protocol in CHILD_PROTOCOLS:
            named = [int.from_bytes(spi, "big") for d in deletes if d.protocol == protocol for spi in d.spis]
            gone = [spi_in for spi_out in dict.fromkeys(named)
                    if (spi_in := self._delete(protocol, spi_out, now)) is not None]
            if gone:
                answers.append(DeletePayload(protocol, tuple(spi.to_bytes(4, "big") for spi in gone)))
        return (*about, *answers)

    def _delete_ike(self, now: float) -> None:
        session = self.session
        ours = next((t for t in session.tasks() if isinstance(t, IkeRekey)), None)
        if ours is not None and ours.rival is not None:
            # The peer won the collision, and its IKE SA carries on.  A later response to ours finds this one dead; one
            # that came is worked on: what it makes stands at the peer, which waits for our Delete of it.
            adopt_rival(session, ours.rival, now)
            if ours.answered:
                ours.ends_with = BY_PEER
                return
        session.ended = BY_PEER

    def _delete(self, protocol: int, spi_out: int, now: float) -> int | None:
        """Delete the pair that the peer receives on `spi_out`; return our SPI of it for the response."""
        session = self.session
        child = session.child_by_peer_spi(protocol, spi_out)
        if child is None:
            for task in session.tasks():
                if isinstance(task, ChildCreate | ChildRekey):
                    task.creation.deleted_early(protocol, spi_out)
            return None
        match child.state:
            case ChildState.UP | ChildState.ARRIVING:
                session.remove(child, BY_PEER)
            case ChildState.REPLACED:
                _finish_replaced(session, child, now)
            case ChildState.REKEYING:
                _delete_while_rekeying(session, child, now)
            case ChildState.DELETING | ChildState.DOOMED | ChildState.LINGERING | ChildState.GONE:
                return None                        # RFC 7296 2.25: both delete it, so neither names it in the answer
        return child.spi_in


def _finish_replaced(session: Session, old: ChildSa, now: float) -> None:
    session.use_successor_of(old)
    if old.successor is not None:
        session.linger(old, now)
    else:
        session.remove(old, BY_PEER)


def _delete_while_rekeying(session: Session, old: ChildSa, now: float) -> None:
    task = rekey_of(session, old)
    rival = task.rival if task else None
    if rival is not None and rival.state is ChildState.ARRIVING:
        session.arrive(rival)
        session.linger(old, now)
    else:
        old.move(ChildState.DOOMED)
