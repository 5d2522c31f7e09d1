from __future__ import annotations

import pytest

from ipsecd.errors import LocalError, WireError
from ipsecd.ike.consts import ProtocolId, TransformType
from ipsecd.ike.wire.sa_payload import MAX_ATTRIBUTES, Attribute, SaPayload, WireProposal, WireTransform
from ipsecd.suites import Transform, encr_of, parse_proposal, prf_of

# Laid out by hand from RFC 7296 3.3.1, 3.3.2 and 3.3.5: ESP with AES-GCM-16 of 256 bits and ESN, then one of AES-CBC.
WIRE = bytes.fromhex("""
    02 00 0020 01 03 04 02 c0010203
        03 00 000c 01 00 0014 800e0100
        00 00 0008 05 00 0001
    00 00 0018 02 03 04 01 c0010203
        00 00 000c 01 00 000c 800e0080
""")
KEY_256 = Attribute(14, 256)
SA = SaPayload((
    WireProposal(1, 3, b"\xc0\x01\x02\x03", (WireTransform(1, 20, (KEY_256,)), WireTransform(5, 1))),
    WireProposal(2, 3, b"\xc0\x01\x02\x03", (WireTransform(1, 12, (Attribute(14, 128),)),))))


def test_sa_has_the_layout_of_the_rfc() -> None:
    assert SA.build() == WIRE
    assert SaPayload.parse(WIRE) == SA


def test_reserved_octets_are_ignored() -> None:
    # IN-08: one in the proposal, two in the transform
    for at in (1, 13, 17):
        assert SaPayload.parse(put(at, 0xFF)) == SA


@pytest.mark.parametrize(("at", "value"), [
    (0, 0), (0, 1), (0, 3), (0x20, 2),                       # proposal last/more
    (12, 0), (12, 2), (24, 3),                               # transform last/more
    (4, 0), (4, 2), (0x24, 0), (0x24, 1), (0x24, 3),         # proposal numbers: 0, decreasing, repeated, gap
    (7, 0), (7, 1), (7, 3), (7, 65), (7, 255),               # number of transforms
    (6, 0), (6, 3), (6, 8), (6, 255),                        # SPI size
    (3, 0), (3, 4), (3, 7), (3, 0x1F), (3, 0x21), (2, 0xFF),  # proposal length
    (15, 0), (15, 7), (15, 11), (15, 13), (14, 0xFF),        # transform length
    (5, 1),                                                  # IKE with an SPI of 4 bytes
])
def test_broken_form_of_a_proposal_is_refused(at: int, value: int) -> None:
    # IN-39
    with pytest.raises(WireError):
        SaPayload.parse(put(at, value))


def test_sa_without_proposal_or_with_trailing_bytes_is_refused() -> None:
    for body in (b"", WIRE + b"\0", WIRE[:-1]):
        with pytest.raises(WireError):
            SaPayload.parse(body)


def test_single_proposal_may_have_any_number_but_zero() -> None:
    # RFC 7296 3.3.1: the answer repeats the number of the proposal chosen.
    for number in (1, 7, 255):
        assert SaPayload.parse(one(number=number).build()).proposals[0].number == number
    with pytest.raises(WireError):
        SaPayload.parse(one(number=0).build())


def test_limits_of_proposals_transforms_and_attributes_are_exact() -> None:
    transforms = (WireTransform(2, 5),)
    for count, legal in ((64, True), (65, False)):
        many = SaPayload(tuple(WireProposal(n + 1, 1, b"", transforms) for n in range(count)))
        wide = one(transforms=transforms * count)
        for payload in (many, wide):
            assert parses(payload) is legal
    for count in (MAX_ATTRIBUTES, MAX_ATTRIBUTES + 1):
        assert parses(one(transforms=(WireTransform(1, 20, (KEY_256,) * count),))) is (count == MAX_ATTRIBUTES)


def test_what_we_do_not_know_is_kept_for_negotiation_to_skip() -> None:
    # IN-37: unknown protocol, transform type and ID
    odd = SaPayload((WireProposal(1, 77, b"123456", (WireTransform(241, 9), WireTransform(1, 1025))),))
    assert SaPayload.parse(odd.build()) == odd
    assert odd.proposals[0].transforms[0].transform() == Transform(241, 9)


@pytest.mark.parametrize("attributes", [
    (Attribute(14, b"\x01\x00"),),                           # IN-38: the long form
    (KEY_256, KEY_256),                                      # IN-38: twice
    (Attribute(13, 256),), (KEY_256, Attribute(99, b"")),    # IN-37: unknown
])
def test_transform_with_unusable_attributes_cannot_be_chosen(attributes) -> None:
    payload = one(transforms=(WireTransform(1, 20, attributes),))
    assert SaPayload.parse(payload.build()) == payload
    assert payload.proposals[0].transforms[0].transform() is None


@pytest.mark.parametrize(("id_", "key_bits"), [(12, None), (12, 0), (12, 64), (12, 129), (12, 65535), (28, 256)])
def test_key_length_that_the_cipher_does_not_have_is_not_ours(id_: int, key_bits: int | None) -> None:
    # IN-38
    attributes = () if key_bits is None else (Attribute(14, key_bits),)
    transform = WireTransform(1, id_, attributes).transform()
    assert transform is not None
    assert encr_of(transform) is None


def test_prf_with_a_key_length_is_not_ours() -> None:
    transform = WireTransform(2, 5, (KEY_256,)).transform()
    assert transform is not None
    assert prf_of(transform) is None


@pytest.mark.parametrize("text", ["aes256gcm16-prfsha384-x25519", "chacha20poly1305-prfsha256-ecp256",
                                  "aes128-sha256-modp2048"])
def test_policy_survives_the_wire(text: str) -> None:
    policy = parse_proposal(text, protocol=ProtocolId.IKE)
    offered = SaPayload.parse(SaPayload((WireProposal.of(policy, number=1),)).build()).proposals[0]
    assert tuple(t.transform() for t in offered.transforms) == policy.transforms
    assert (offered.number, offered.protocol, offered.spi) == (1, ProtocolId.IKE, b"")


@pytest.mark.parametrize("types", [(), (2, 4), (1, 4), (1, 2)])
def test_incomplete_proposal_parses_for_negotiation_to_skip(types: tuple[int, ...]) -> None:
    # IN-36
    payload = one(transforms=tuple(WireTransform(t, 1) for t in types))
    found = SaPayload.parse(payload.build()).proposals[0].transforms
    assert tuple(t.type for t in found) == types
    assert TransformType.KE in types or all(t.type != TransformType.KE for t in found)


def test_oversized_proposals_are_our_own_fault() -> None:
    for bad in (one(transforms=(WireTransform(1, 1),) * 256), one(transforms=(WireTransform(1, 1 << 16),)),
                one(transforms=(WireTransform(1, 1, (Attribute(1, bytes(65536)),)),)),
                one(transforms=(WireTransform(1, 1, (Attribute(0x8000, 1),)),))):
        with pytest.raises(LocalError):
            bad.build()


def one(number: int = 1, transforms: tuple[WireTransform, ...] = (WireTransform(2, 5),)) -> SaPayload:
    return SaPayload((WireProposal(number, 1, b"", transforms),))


def put(at: int, value: int) -> bytes:
    return WIRE[:at] + bytes([value]) + WIRE[at + 1:]


def parses(payload: SaPayload) -> bool:
    try:
        return SaPayload.parse(payload.build()) == payload
    except WireError:
        return False
