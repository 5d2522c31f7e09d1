"""Identities with a wildcard: one entry for many remotes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecd.config.diff import PeerChanged, diff
from ipsecd.config.identity import parse_peer_identity
from ipsecd.ike.consts import IdType
from ipsecd.policy import Identity, IdentityPattern, Start
from tests.unit.config.support import changed, compiled, errors_of

ADDRESS, IDENTITY = "    address: [198.51.100.2]\n", "identity: hq.example.net"


def with_identity(text: str) -> str:
    return changed((ADDRESS, ""), (IDENTITY, f"identity: {text}"))


@pytest.mark.parametrize(("text", "pattern"), [
    ("*.Branches.example.net", IdentityPattern(IdType.FQDN, b".branches.example.net")),
    ("*@Example.net", IdentityPattern(IdType.RFC822_ADDR, b"@example.net")),
    ("any", IdentityPattern(None)),
    ("dn:C=DE, O=Example GmbH, CN=*", IdentityPattern(IdType.DER_ASN1_DN, rdns=(
        ("2.5.4.6", "de"), ("2.5.4.10", "example gmbh"), ("2.5.4.3", None)))),
    ("dn:C=*, O=Example", IdentityPattern(IdType.DER_ASN1_DN, rdns=(("2.5.4.6", None), ("2.5.4.10", "example")))),
])
def test_pattern_says_what_is_open(text: str, pattern: IdentityPattern) -> None:
    assert parse_peer_identity(text) == pattern


def test_identity_without_a_wildcard_stays_one_identity() -> None:
    assert parse_peer_identity("hq.example.net") == Identity(IdType.FQDN, b"hq.example.net")


@pytest.mark.parametrize("text", ["*", "*.net", "a*.example.net", "*.*.example.net", "b.*.example.net", "*@",
                                  "a*@example.net",
                                  "dn:CN=*", "dn:C=*, CN=*", "dn:O=Ex*, CN=a", "dn:X=*, CN=a", "keyid:*", "10.0.0.*"])
def test_wildcard_elsewhere_than_for_a_whole_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_peer_identity(text)


def test_entry_with_a_pattern_only_listens_and_warns_of_a_shared_key(tmp_path: Path) -> None:
    loaded = compiled(tmp_path, with_identity('"*.branches.example.net"'))
    peer = loaded.policy.peers[0]
    assert (peer.addresses, peer.remote_identity, peer.serves_many) == ((), None, True)
    assert [c.start for c in peer.children] == [Start.LISTEN]
    assert any("every holder of the same key can claim each name" in w for w in loaded.warnings)


@pytest.mark.parametrize(("text", "problem"), [
    (changed((IDENTITY, 'identity: "*.example.net"')), "6:15: peers.hq.identity: found *.example.net beside an address"
     "; expected one identity"),
    (with_identity("any"), "5:15: peers.hq.identity: found any with auth.remote psk; expected certificates"),
    (with_identity('"a*.example.net"'), "5:15: peers.hq.identity: found 'a*.example.net'; expected a wildcard in place "
     "of one whole part"),
    (changed(("identity: branch-a.example.net", 'identity: "*.example.net"')), "2:13: gateway.identity: found "
     "'*.example.net'; expected one name without wildcards"),
    (with_identity('"*.example.net"') + """\
  two:
    identity: "*.Example.net"
    auth: {psk_file: KEYFILE}
    children: {office: {local: [10.1.0.0/16], remote: [10.9.0.0/16]}}
""", "peers.two.identity: found the identity of peer hq"),
    (with_identity('"*.example.net"').replace("        remote:", "        start: always\n        remote:"),
     "expected listen, because this peer has no address to call"),
])
def test_pattern_that_cannot_be_is_named_with_its_place(text: str, problem: str, tmp_path: Path) -> None:
    found = errors_of(tmp_path, text)
    assert any(problem in line for line in found), found


def test_changed_pattern_makes_the_ike_sas_anew(tmp_path: Path) -> None:
    old = compiled(tmp_path, with_identity('"*.a.example.net"')).policy
    new = compiled(tmp_path, with_identity('"*.b.example.net"')).policy
    assert diff(old, new) == (PeerChanged("hq", ("pattern",), disruptive=True),)
