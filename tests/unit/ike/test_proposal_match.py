"""Additional key exchanges of two proposals that meet: NONE, no method twice, choices taken back (RFC 9370 2.2.1)."""

from __future__ import annotations

import pytest

from ipsecd.ike.consts import KeId, ProtocolId, TransformType
from ipsecd.ike.negotiate import offer_ike
from ipsecd.ike.proposal_match import NO_KE, match, own_types, wire_types
from ipsecd.suites import Transform, parse_proposal, transform_name

BASE = "aes256gcm16-prfsha384-x25519"


def agreed(ours: str, theirs: str) -> str | None:
    """Return the key exchanges that two continuations of the base suite agree on, None without a match."""
    mine, other = (parse_proposal(f"{BASE}-{more}".rstrip("-"), protocol=ProtocolId.IKE) for more in (ours, theirs))
    offered = wire_types(offer_ike((other,)).proposals[0])
    assert offered is not None
    picked = match(ProtocolId.IKE, own_types(mine), offered, KeId.CURVE25519)
    return None if picked is None else "-".join(transform_name(t) for t in picked if t.type >= TransformType.KE)


@pytest.mark.parametrize(("ours", "theirs", "expected"), [
    # Absent on both sides, on one side, and as NONE, which is the same
    ("", "", "x25519"),
    ("ke1_mlkem768", "", None),
    ("", "ke1_mlkem768", None),
    ("ke1_mlkem768-ke1_none", "", "x25519"),
    ("", "ke1_mlkem768-ke1_none", "x25519-ke1_none"),
    ("ke1_none", "ke1_none", "x25519-ke1_none"),
    ("ke1_none-ke1_mlkem768", "ke1_mlkem768-ke1_none", "x25519-ke1_none"),
    ("ke1_mlkem768-ke1_none", "ke1_none-ke1_mlkem768", "x25519-ke1_mlkem768"),
    ("ke1_mlkem768", "ke1_none-ke1_mlkem768", "x25519-ke1_mlkem768"),
    ("ke1_mlkem768", "ke1_none", None),
    # The types may have gaps, and each is for itself
    ("ke2_mlkem768", "ke1_mlkem768", None),
    ("ke2_mlkem768-ke7_mlkem1024", "ke7_mlkem1024-ke2_mlkem768", "x25519-ke2_mlkem768-ke7_mlkem1024"),
    ("ke1_mlkem768", "ke1_mlkem1024", None)])
def test_absence_means_none_and_each_type_is_for_itself(ours: str, theirs: str, expected: str | None) -> None:
    assert agreed(ours, theirs) == expected


@pytest.mark.parametrize(("both", "expected"), [
    ("ke1_mlkem768-ke2_mlkem768", None),
    ("ke1_mlkem768-ke2_mlkem768-ke2_none", "x25519-ke1_mlkem768-ke2_none"),
    ("ke1_none-ke2_none-ke3_none", "x25519-ke1_none-ke2_none-ke3_none"),        # NONE may come twice
    ("ke1_x25519", None),                                                       # not that of the first exchange either
    ("ke1_x25519-ke1_mlkem768", "x25519-ke1_mlkem768")])
def test_no_method_is_taken_twice(both: str, expected: str | None) -> None:
    assert agreed(both, both) == expected


@pytest.mark.parametrize(("ours", "theirs", "expected"), [
    # RFC 9370 2.2.1 has this example: two types with the same two methods
    ("ke2_mlkem768-ke2_mlkem1024-ke3_mlkem768-ke3_mlkem1024", "ke2_mlkem768-ke2_mlkem1024-ke3_mlkem768-ke3_mlkem1024",
     "x25519-ke2_mlkem768-ke3_mlkem1024"),
    ("ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768", "ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768",
     "x25519-ke1_mlkem1024-ke2_mlkem768"),
    ("ke1_mlkem768-ke1_none-ke2_mlkem768", "ke2_mlkem768-ke1_mlkem768-ke1_none", "x25519-ke1_none-ke2_mlkem768"),
    ("ke1_mlkem768-ke1_mlkem1024-ke1_ecp256-ke2_mlkem768-ke2_mlkem1024-ke3_mlkem768",
     "ke1_mlkem768-ke1_mlkem1024-ke1_ecp256-ke2_mlkem768-ke2_mlkem1024-ke3_mlkem768",
     "x25519-ke1_ecp256-ke2_mlkem1024-ke3_mlkem768"),
    ("ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768-ke2_mlkem1024-ke3_mlkem768",
     "ke1_mlkem768-ke1_mlkem1024-ke2_mlkem768-ke2_mlkem1024-ke3_mlkem768", None)])
def test_choice_that_leaves_nothing_for_a_later_type_is_taken_back(ours: str, theirs: str,
                                                                   expected: str | None) -> None:
    assert agreed(ours, theirs) == expected


@pytest.mark.parametrize(("methods", "expected"), [((KeId.ML_KEM_768,), None), ((KeId.ML_KEM_768, KeId.NONE), 0)])
def test_child_without_a_first_key_exchange_has_no_additional_ones(methods: tuple[int, ...],
                                                                   expected: int | None) -> None:
    types = {**own_types(parse_proposal("aes256gcm16-noesn", protocol=ProtocolId.ESP)),
             TransformType.KE: {NO_KE: None},
             TransformType.ADDKE1: {Transform(TransformType.ADDKE1, method): None for method in methods}}
    picked = match(ProtocolId.ESP, types, types, KeId.NONE)
    assert (picked if picked is None else next(t.id for t in picked if t.type == TransformType.ADDKE1)) == expected
