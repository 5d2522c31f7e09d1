from __future__ import annotations

import pytest

from ipsecd.aead import make_sealer
from ipsecd.errors import BadIcv, LocalError, WireError
from ipsecd.ike.consts import PayloadType
from ipsecd.ike.crypto.keymat import IkeKeys, ike_keys
from ipsecd.ike.crypto.sk_payload import (
    MessageFields,
    OpenedFragment,
    OpenedMessage,
    SkOpener,
    SkPair,
    join,
    open_fragment,
    open_message,
    sk_pair,
)
from ipsecd.ike.wire.message import MAX_FRAGMENTS, Payload, SealedMessage, split
from ipsecd.ike.wire.payloads import KePayload, NoncePayload, VendorPayload
from ipsecd.secret import Secret
from ipsecd.suites import ENCRS, INTEGS, PRFS, IkeSuite
from tests.support.vectors import load

FIELDS = MessageFields(b"initiate", b"responds", 35, 0x08, 1)
PAYLOADS: tuple[Payload, ...] = (KePayload(31, bytes(32)), NoncePayload(bytes(range(32))))
SUITES = [IkeSuite(encr, PRFS[0], None if encr.aead else integ, 31)
          for encr in ENCRS for integ in (INTEGS[:1] if encr.aead else INTEGS)]
GCM, CBC = SUITES[0], SUITES[-1]
each_suite = pytest.mark.parametrize("suite", SUITES, ids=str)


class CountingRng:
    """Repeatable bytes that never repeat."""

    def __init__(self) -> None:
        self.drawn = 0

    def random_bytes(self, count: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(count, "big")

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


@each_suite
@pytest.mark.parametrize("payloads", [(), PAYLOADS], ids=["empty", "two"])
def test_message_sealed_by_one_end_opens_at_the_other(suite: IkeSuite, payloads: tuple[Payload, ...]) -> None:
    left, right = ends(suite)
    for sender, receiver in ((left, right), (right, left)):
        opened = open_message(sealed(sender.sealer.seal_message(FIELDS, payloads)), receiver.opener)
        assert opened.payloads == payloads
        assert (opened.header.message_id, opened.header.exchange, opened.header.flags) == (1, 35, 0x08)
        with pytest.raises(BadIcv):
            open_message(sealed(sender.sealer.seal_message(FIELDS, payloads)), sender.opener)


@each_suite
def test_every_byte_of_a_message_is_authenticated(suite: IkeSuite) -> None:
    left, right = ends(suite)
    datagram = left.sealer.seal_message(FIELDS, PAYLOADS)
    for at in range(len(datagram)):
        changed = datagram[:at] + bytes([datagram[at] ^ 0x80]) + datagram[at + 1:]
        try:
            message = split(changed)
        except WireError:
            continue                        # lengths and payload types: nothing was opened
        assert not isinstance(message, SealedMessage) or refuses(message, right.opener)


@each_suite
def test_short_encrypted_payload_is_a_bad_icv(suite: IkeSuite) -> None:
    left, right = ends(suite)
    datagram = left.sealer.seal_message(FIELDS, ())
    for length in range(32, len(datagram)):
        cut = datagram[:24] + length.to_bytes(4, "big") + datagram[28:30] + (length - 28).to_bytes(2, "big")
        with pytest.raises(BadIcv):
            open_message(sealed(cut + datagram[32:length]), right.opener)


def test_message_agrees_with_rfc_7634_appendix_b() -> None:
    vector = load("ciphers.txt")["ike message"]
    chacha = next(encr for encr in ENCRS if encr.keyword == "chacha20poly1305")
    opener = SkOpener(IkeSuite(chacha, PRFS[0], None, 31), encr_key=Secret(vector["key"] + vector["salt"]),
                      integ_key=Secret(b""))
    assert opener.open(sealed(vector["datagram"])) == vector["plaintext"][:-1]
    opened = open_message(sealed(vector["datagram"]), opener)
    assert [payload.payload_type for payload in opened.payloads] == [PayloadType.NOTIFY]


def test_aead_ivs_count_and_never_repeat() -> None:
    left, _ = ends(GCM)
    ivs = [left.sealer.seal_message(FIELDS, ())[32:40] for _ in range(5)]
    ivs += [d[36:44] for d in left.sealer.seal_fragments(FIELDS, big(3000), max_ip_bytes=1280, ip_version=4)]
    assert ivs == [number.to_bytes(8, "big") for number in range(8)]


def test_used_up_ivs_end_the_key() -> None:
    left, _ = ends(GCM)
    left.sealer._next_iv = 2**64 - 1
    left.sealer.seal_message(FIELDS, ())
    with pytest.raises(LocalError, match="used up"):
        left.sealer.seal_message(FIELDS, ())


def test_cbc_iv_is_drawn_for_each_message() -> None:
    rng = CountingRng()
    sealer = sk_pair(CBC, keys(CBC), original_initiator=True, rng=rng).sealer
    assert sealer.seal_message(FIELDS, ())[32:48] == (1).to_bytes(16, "big")
    assert sealer.seal_message(FIELDS, ())[32:48] == (2).to_bytes(16, "big")


@pytest.mark.parametrize(("first", "plaintext"), [
    (0, b"\0\0"),                           # bytes where no payload is named
    (40, b"\0"),                            # a payload named, no bytes
    (40, bytes(20)),                        # length 0
    (40, b"\0\0\0\x14" + bytes(15) + b"\0"),  # nonce of 15 bytes
    (46, b"\0\0\0\x04\0"),                 # an Encrypted payload inside
    (0, b"\x01"), (0, b"\xff"), (0, bytes(9) + b"\x0a"),  # padding longer than the plaintext
])
def test_authentic_message_of_wrong_form_is_a_wire_error(first: int, plaintext: bytes) -> None:
    _, right = ends(GCM)
    total = 28 + 4 + 8 + len(plaintext) + 16
    clear = (b"initiateresponds" + bytes([46, 0x20, 35, 0x08]) + (1).to_bytes(4, "big") + total.to_bytes(4, "big")
             + bytes([first, 0]) + (total - 28).to_bytes(2, "big"))
    made = keys(GCM)
    box = make_sealer(GCM.encr, None, encr_key=made.sk_ei, integ_key=made.sk_ai)
    with pytest.raises(WireError):
        open_message(sealed(clear + bytes(8) + box.seal(bytes(8), plaintext, clear)), right.opener)


@each_suite
@pytest.mark.parametrize(("ip_version", "overhead"), [(4, 32), (6, 52)])
@pytest.mark.parametrize("max_ip_bytes", [576, 1280])
def test_fragments_fill_but_never_exceed_the_datagram(suite: IkeSuite, ip_version: int, overhead: int,
                                                      max_ip_bytes: int) -> None:
    left, right = ends(suite)
    for size in (0, 300, 460, 480, 500, 520, 1100, 1190, 1200, 1210, 5000):
        payloads = big(size)
        datagrams = left.sealer.seal_fragments(FIELDS, payloads, max_ip_bytes=max_ip_bytes, ip_version=ip_version)
        assert all(len(d) + overhead <= max_ip_bytes for d in datagrams)
        assert all(len(d) + overhead > max_ip_bytes - 16 for d in datagrams[:-1])
        assert opened_from(datagrams, right.opener).payloads == payloads


def test_message_that_fits_is_not_fragmented() -> None:
    left, _ = ends(GCM)
    (datagram,) = left.sealer.seal_fragments(FIELDS, PAYLOADS, max_ip_bytes=1280, ip_version=4)
    assert datagram[16] == PayloadType.SK


def test_message_beyond_64_fragments_is_our_fault() -> None:
    left, _ = ends(GCM)
    left.sealer.seal_fragments(FIELDS, big(29000), max_ip_bytes=576, ip_version=6)
    with pytest.raises(LocalError, match=f"{MAX_FRAGMENTS}"):
        left.sealer.seal_fragments(FIELDS, big(60000), max_ip_bytes=576, ip_version=6)
    with pytest.raises(LocalError):
        left.sealer.seal_fragments(FIELDS, PAYLOADS, max_ip_bytes=100, ip_version=6)


def test_fragment_and_whole_message_are_not_confused() -> None:
    left, right = ends(GCM)
    whole = sealed(left.sealer.seal_message(FIELDS, PAYLOADS))
    piece = sealed(left.sealer.seal_fragments(FIELDS, big(2000), max_ip_bytes=1280, ip_version=4)[0])
    with pytest.raises(LocalError):
        open_fragment(whole, right.opener)
    with pytest.raises(LocalError):
        open_message(piece, right.opener)


def test_join_takes_all_fragments_of_one_message_only() -> None:
    left, right = ends(GCM)
    one = pieces(left, right, FIELDS)
    other = pieces(left, right, FIELDS._replace(message_id=2))
    assert join(one).payloads == big(3000)
    for wrong in (one[:2], one[::-1], [one[0], other[1], one[2]]):
        with pytest.raises(LocalError):
            join(wrong)


def test_digest_of_a_request_is_that_of_its_first_fragment() -> None:
    left, right = ends(GCM)
    one = pieces(left, right, FIELDS)
    assert join(one).digest == one[0].digest
    datagram = left.sealer.seal_message(FIELDS, ())
    assert open_message(sealed(datagram), right.opener).digest == open_message(sealed(datagram), right.opener).digest


def test_opened_messages_come_from_sk_payload_alone() -> None:
    header = sealed(ends(GCM)[0].sealer.seal_message(FIELDS, ())).header
    with pytest.raises(LocalError):
        OpenedMessage(header, (), b"", b"", object())
    with pytest.raises(LocalError):
        OpenedFragment(header, 1, 1, 40, b"", (), b"", None)


def keys(suite: IkeSuite) -> IkeKeys:
    return ike_keys(suite, ni=bytes(32), nr=bytes(32), shared=Secret(b"secret"), spi_i=b"initiate", spi_r=b"responds")


def ends(suite: IkeSuite) -> tuple[SkPair, SkPair]:
    return (sk_pair(suite, keys(suite), original_initiator=True, rng=CountingRng()),
            sk_pair(suite, keys(suite), original_initiator=False, rng=CountingRng()))


def sealed(datagram: bytes) -> SealedMessage:
    message = split(datagram)
    assert isinstance(message, SealedMessage)
    return message


def refuses(message: SealedMessage, opener: SkOpener) -> bool:
    with pytest.raises(BadIcv):
        open_message(message, opener)
    return True


def big(size: int) -> tuple[Payload, ...]:
    return (VendorPayload(bytes(i % 251 for i in range(size))),)


def pieces(left: SkPair, right: SkPair, fields: MessageFields) -> list[OpenedFragment]:
    datagrams = left.sealer.seal_fragments(fields, big(3000), max_ip_bytes=1280, ip_version=4)
    return [open_fragment(sealed(datagram), right.opener) for datagram in datagrams]


def opened_from(datagrams: tuple[bytes, ...], opener: SkOpener) -> OpenedMessage:
    if len(datagrams) == 1:
        return open_message(sealed(datagrams[0]), opener)
    return join([open_fragment(sealed(datagram), opener) for datagram in datagrams])
