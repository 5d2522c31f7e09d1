"""RFC 6311 is known by name and refused in silence: no message of it moves a Message ID or a sequence number."""

from __future__ import annotations

import pytest

from ipsecd.drops import DropReason
from ipsecd.ike.consts import ExchangeType, NotifyType, enum_name
from ipsecd.ike.crypto.sk_payload import MessageFields
from ipsecd.ike.wire.header import FLAG_INITIATOR, FLAG_RESPONSE
from ipsecd.ike.wire.notify import NotifyPayload
from tests.support.exchange import Two
from tests.support.sim import Datagram

SYNC = (NotifyType.IKEV2_MESSAGE_ID_SYNC_SUPPORTED, NotifyType.IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED,
        NotifyType.IKEV2_MESSAGE_ID_SYNC, NotifyType.IPSEC_REPLAY_COUNTER_SYNC)
NONCE, FAR_AHEAD = b"once", (1000).to_bytes(4, "big")


def test_notifies_of_synchronisation_have_names() -> None:
    assert [enum_name(NotifyType, n) for n in range(16420, 16424)] == [t.name for t in SYNC]


@pytest.mark.parametrize("message_id", [0, 2])
@pytest.mark.parametrize("response", [False, True])
def test_synchronisation_that_was_not_agreed_changes_no_message_id(message_id: int, *, response: bool) -> None:
    # RFC 6311 4.2: only an IKE SA whose ends both announced it takes Message ID 0 again.
    two = Two()
    two.establish()
    a, = two.a.endpoint._table.sas.values()
    b, = two.b.endpoint._table.sas.values()
    before = (a.requests._next_id, a.responses.expected, b.requests._next_id, b.responses.expected)
    crypto, path = a.session.crypto, a.session.path
    flags = FLAG_INITIATOR | (FLAG_RESPONSE if response else 0)
    fields = MessageFields(crypto.spi_i, crypto.spi_r, ExchangeType.INFORMATIONAL, flags, message_id)
    notifies = (NotifyPayload(NotifyType.IKEV2_MESSAGE_ID_SYNC, NONCE + FAR_AHEAD + FAR_AHEAD),
                NotifyPayload(NotifyType.IPSEC_REPLAY_COUNTER_SYNC, FAR_AHEAD))
    two.net.inject(Datagram(path.local, path.remote, a._channel._pair.sealer.seal_message(fields, notifies)))
    two.net.run(1)
    answered = message_id == 2 and not response
    after = (a.requests._next_id, a.responses.expected, b.requests._next_id, b.responses.expected - answered)
    assert after == before
    drops = two.b.endpoint.drops
    assert answered or drops[DropReason.IKE_UNEXPECTED_RESPONSE] + drops[DropReason.IKE_MESSAGE_ID] + drops[
        DropReason.IKE_RETRANSMIT_MISMATCH] == 1
    assert (len(two.a.pairs), len(two.b.pairs)) == (1, 1)
