"""One entry that serves many remotes (RFC 4301 4.4.3): whom it lets in, and that no two hold the same traffic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from ipsecd.causes import Cause
from ipsecd.config.identity import parse_peer_identity
from ipsecd.events import ChildFailed, IkeAttemptFailed, LocalFault
from ipsecd.ike.consts import IdType
from ipsecd.policy import NOBODY, AuthPolicy, Identity, IdentityPattern, Mode, NullAuth, PeerPolicy, Policy
from ipsecd.reports import ChildUp
from ipsecd.sa import ChildKey
from ipsecd.secret import Secret
from ipsecd.selectors import from_prefix
from tests.exchange.test_auth_cert import ROOT, credential, trust
from tests.support.exchange import PSK, child_policy, fqdn, ike_policy, peer_policy, policy
from tests.support.gateways import Node
from tests.support.nat import Nat
from tests.support.pki import Entity, issue
from tests.support.seeded_rng import SeededRng
from tests.support.sim import Host, SimNet

HEAD = "203.0.113.2"
HQ_NETS, BRANCH_NETS = "10.1.0.0/16", "10.100.0.0/16"
KEY = ChildKey("branches", "lan")


def pattern(text: str) -> IdentityPattern:
    found = parse_peer_identity(text)
    assert isinstance(found, IdentityPattern)
    return found


def branches(identity: str = "*.branches.example", **changes: object) -> PeerPolicy:
    base = peer_policy("branches", None, own="hq.example", other="", children=(
        child_policy("branches", "lan", HQ_NETS, BRANCH_NETS),))
    return replace(base, remote_identity=None, pattern=pattern(identity), **changes)  # type: ignore[arg-type]


def branch(identity: Identity, net: str, **changes: object) -> Policy:
    base = peer_policy("hq", HEAD, own="", other="hq.example", children=(child_policy("hq", "lan", net, HQ_NETS),),
                       ike=ike_policy(init_timeout_s=5))
    return policy(replace(base, local_identity=identity, **changes))  # type: ignore[arg-type]


class World:
    """A head end and branches, each a whole gateway."""

    def __init__(self, *entries: PeerPolicy) -> None:
        self.net = SimNet(0)
        self.head = self.add("head", HEAD, policy(*entries))
        self.node(self.head).start()

    def add(self, name: str, address: str, settings: Policy) -> Host:
        host = self.net.add(name, address, settings)
        node = Node(self.net, address, settings, SeededRng((name, self.net.now)))
        host.endpoint, node.host = node, host  # type: ignore[assignment]
        node.gateway.endpoint._table._wall_clock = self.net.wall_now
        return host

    def join(self, name: str, number: int, net: str | None = None, *, identity: Identity | None = None,
             address: str | None = None, **changes: object) -> Host:
        settings = branch(identity or fqdn(f"{name}.branches.example"), net or f"10.100.{number}.0/24", **changes)
        host = self.add(name, address or f"192.0.2.{number}", settings)
        self.node(host).start()
        self.net.run(3)
        return host

    @staticmethod
    def node(host: Host) -> Node:
        node = host.endpoint
        assert isinstance(node, Node)
        return node

    def rows(self) -> dict[str, int]:
        """The rows of status with the number of their pairs, and what must hold always."""
        slots = [(p.child, p.slot) for p in self.head.pairs.values()]
        assert not self.head.events(LocalFault)
        assert all(child == KEY for child, _ in slots)
        held = sorted((s.low, s.high, self.owner(p.spi_in)) for p in self.head.pairs.values() for s in p.ts_remote)
        assert all(a[1] < b[0] or a[2] == b[2] for a, b in pairwise(held)), held
        return {p.name: sum(len(i.pairs) for i in p.ike) for p in self.node(self.head).gateway.view().peers}

    def owner(self, spi: int) -> str:
        return next(v.remote_identity for v in self.head.endpoint.views() if any(p.spi_in == spi for p in v.pairs))


def test_each_remote_of_a_pattern_has_its_own_ike_sa_selectors_and_row() -> None:
    world = World(branches())
    for number in (1, 2, 3):
        world.join(f"b{number}", number)
    assert world.rows() == {"branches": 0, "branches[b1.branches.example]": 1, "branches[b2.branches.example]": 1,
                            "branches[b3.branches.example]": 1}
    assert len({p.slot for p in world.head.pairs.values()}) == 3
    assert sorted(str(p.ts_remote[0]) for p in world.head.pairs.values()) == [f"10.100.{n}.0/24" for n in (1, 2, 3)]
    assert len([k for k in world.head.outbound if k[0] == KEY]) == 3          # nobody sends in place of another


def test_of_two_hosts_behind_one_nat_the_first_has_transport_mode_and_the_second_none() -> None:
    # TR-04: to us both have the NAT's address, so nothing could tell their packets apart.
    outside = "198.51.100.9"
    entry = branches()
    world = World(replace(entry, children=(child_policy("branches", "lan", HEAD, outside, mode=Mode.TRANSPORT),)))
    nat = Nat(outside)
    for number in (1, 2):
        inside = f"192.0.2.{number}"
        host = world.add(f"b{number}", inside, branch(fqdn(f"b{number}.branches.example"), inside, children=(
            child_policy("hq", "lan", inside, HEAD, mode=Mode.TRANSPORT),)))
        host.nat = nat
        world.node(host).start()
        world.net.run(3)
    (pair,) = world.head.pairs.values()
    assert (pair.transport or ("",))[:2] == (HEAD, outside)
    assert world.owner(pair.spi_in) == "b1.branches.example"
    refused = world.head.last_event(ChildFailed).failure
    assert refused.cause is Cause.TS_UNACCEPTABLE and "branches[b1.branches.example] has" in refused.detail


def test_wide_claim_is_narrowed_to_what_the_entry_allows() -> None:
    world = World(branches())
    world.join("b1", 1, "10.0.0.0/8")
    assert [str(p.ts_remote[0]) for p in world.head.pairs.values()] == ["10.100.0.0/16"]


@pytest.mark.parametrize("claim", ["10.100.1.0/24", "10.100.1.128/25", "10.100.0.0/16", "10.0.0.0/8"])
def test_selectors_that_another_remote_holds_are_refused_and_the_first_keeps_them(claim: str) -> None:
    world = World(branches())
    world.join("b1", 1)
    before = dict(world.head.outbound)
    thief = world.join("b2", 2, claim)
    assert not thief.pairs
    assert world.head.outbound == before
    failure = world.head.last_event(ChildFailed).failure
    assert failure.cause is Cause.TS_UNACCEPTABLE
    assert "branches[b1.branches.example] has" in failure.detail
    assert "b1.branches" not in str(thief.log)          # nobody learns who the others are


def test_selectors_are_free_again_once_their_remote_is_gone() -> None:
    world = World(branches())
    first = world.join("b1", 1)
    world.node(first).gateway.shutdown(world.net.now)
    first.collect()
    world.net.run(10)
    assert world.rows() == {"branches": 0}
    world.join("b2", 2, "10.100.1.0/24")
    assert world.rows() == {"branches": 0, "branches[b2.branches.example]": 1}


def test_remote_that_comes_again_from_elsewhere_replaces_itself_only() -> None:
    world = World(branches())
    for number in (1, 2):
        world.join(f"b{number}", number)
    slots = {k[1] for k in world.head.outbound}
    world.net.drop(lambda d: "192.0.2.1" in (d.source.address, d.destination.address))     # b1 moves
    world.join("b1", 1, identity=fqdn("B1.Branches.Example"), address="198.51.100.1")
    world.net.run(10)
    assert world.rows() == {"branches": 0, "branches[b1.branches.example]": 1, "branches[b2.branches.example]": 1}
    assert {k[1] for k in world.head.outbound} == slots


def test_rekeys_of_ike_and_child_keep_the_place_of_each_remote() -> None:
    world = World(branches())
    hosts = [world.join(f"b{n}", n) for n in (1, 2)]
    rows, slots = world.rows(), sorted(k[1] for k in world.head.outbound)
    head = world.node(world.head).gateway
    assert head.rekey("branches", None, world.net.now) == 2
    world.head.collect()
    world.net.run(5)
    assert head.rekey("branches", "lan", world.net.now) == 2
    world.head.collect()
    world.net.run(20)
    assert (world.rows(), sorted(k[1] for k in world.head.outbound)) == (rows, slots)
    assert all(len(h.pairs) == 1 for h in hosts)


def test_hard_kill_of_a_remote_is_noticed_and_frees_its_row() -> None:
    world = World(branches(ike=ike_policy(dpd_s=10)))
    for number in (1, 2):
        world.join(f"b{number}", number)
    world.net.drop(lambda d: "192.0.2.1" in (d.source.address, d.destination.address))
    world.net.run(120)
    assert set(world.rows()) == {"branches", "branches[b2.branches.example]"}


@pytest.mark.parametrize("claimed", [
    b"branches.example", b".branches.example", b"a.b.branches.example", b"b1.branches.example.",
    b"b1.branches.example\0", b"b1\0.branches.example", b"b1.branches.example.org", b"xbranches.example",
    b"*.branches.example", b"-b.branches.example", b"b-.branches.example",
    "b\u00fc.branches.example".encode(), b"xn--b-eha.branches.example",
    b"XN--b-eha.branches.example", b"b 1.branches.example", b"b1\n.branches.example", b"b" * 64 + b".branches.example",
    "b\u3002c.branches.example".encode(), b"[b1].branches.example",
])
def test_wildcard_stands_for_one_plain_label(claimed: bytes) -> None:
    world = World(branches())
    remote = world.join("x", 9, identity=Identity(IdType.FQDN, claimed))
    assert not remote.pairs
    assert world.rows() == {"branches": 0}
    assert world.head.last_event(IkeAttemptFailed).failure.cause in (
        Cause.UNKNOWN_IDENTITY, Cause.INVALID_SYNTAX)


@pytest.mark.parametrize("type_", [IdType.RFC822_ADDR, IdType.KEY_ID, IdType.DER_ASN1_DN])
def test_pattern_of_one_type_takes_no_other(type_: IdType) -> None:
    world = World(branches())
    assert not world.join("x", 9, identity=Identity(type_, b"b1.branches.example")).pairs


@pytest.mark.parametrize("enabled", [True, False])
def test_identity_of_another_entry_is_never_served_by_a_pattern(enabled: bool) -> None:
    # Whoever holds the branches' key claims to be b7, who has an entry, key and address of its own, or even sleeps.
    own = replace(peer_policy("seven", "192.0.2.77", own="hq.example", other="b7.branches.example", children=(
        child_policy("seven", "lan", HQ_NETS, "10.7.0.0/16"),), psk=Secret(b"another key of thirty-two bytes.")),
        enabled=enabled)
    for entries in ((own, branches()), (branches(), own)):
        for claimed in ("b7.branches.example", "B7.branches.example"):
            world = World(*entries)
            thief = world.join("b7", 7, identity=fqdn(claimed))
            assert not thief.pairs
            assert not world.head.reports(ChildUp)


def test_address_of_another_entry_is_its_identity_and_never_served_by_a_pattern() -> None:
    own = replace(peer_policy("seven", "192.0.2.77", own="hq.example", other="", children=(
        child_policy("seven", "lan", HQ_NETS, "10.7.0.0/16"),)), remote_identity=None)
    certificate = issue("CN=x", ROOT, which=1, sans=("192.0.2.77",))
    world = World(own, branches("any", auth=AuthPolicy(None, trust())))
    thief = world.join("x", 7, identity=Identity(IdType.IPV4_ADDR, bytes([192, 0, 2, 77])),
                       auth=AuthPolicy(credential(certificate), None))
    assert not thief.pairs
    assert world.rows() == {"seven": 0, "branches": 0}


def test_wrong_key_for_a_pattern_is_refused_and_told_nothing() -> None:
    world = World(branches(psk=Secret(b"another key of thirty-two bytes.")))
    remote = world.join("b1", 1)
    assert world.head.last_event(IkeAttemptFailed).failure.cause is Cause.AUTHENTICATION_FAILED
    assert remote.last_event(IkeAttemptFailed).failure.cause is Cause.PEER_REFUSED_AUTH
    assert world.rows() == {"branches": 0}


def test_certificate_must_name_what_the_pattern_let_in() -> None:
    auth = AuthPolicy(None, trust())
    for names, good in ((("b1.branches.example",), True), (("b2.branches.example",), False),
                        (("*.branches.example",), False)):
        world = World(branches(auth=auth))
        own = issue("O=Example, CN=b1", ROOT, which=1, sans=names)
        remote = world.join("b1", 1, auth=AuthPolicy(credential(own), None))
        assert bool(remote.pairs) is good


def dn(entity: Entity) -> Identity:
    return Identity(IdType.DER_ASN1_DN, entity.cert.subject.public_bytes())


@pytest.mark.parametrize(("subject", "good"), [
    ("O=Example, CN=b1", True), ("O=EXAMPLE, CN=b1", True), ("O=Other, CN=b1", False), ("CN=b1", False),
    ("O=Example, CN=b1, CN=b2", False), ("CN=b1, O=Example", False), ("O=Example, OU=b1", False)])
def test_distinguished_name_matches_part_by_part(subject: str, good: bool) -> None:
    own = issue(subject, ROOT, which=1)
    world = World(branches("dn:O=Example, CN=*", auth=AuthPolicy(None, trust())))
    remote = world.join("b1", 1, identity=dn(own), auth=AuthPolicy(credential(own), None))
    assert bool(remote.pairs) is good
    assert (len(world.rows()) == 2) is good


def test_any_takes_what_certificates_prove_and_nothing_else() -> None:
    world = World(branches("any", auth=AuthPolicy(None, trust())))
    for number, sans in enumerate(("b1.one.example", "gw@example.net", "192.0.2.3"), 1):
        own = issue(f"CN={number}", ROOT, which=number, sans=(sans,))
        identity = {1: fqdn(sans), 2: Identity(IdType.RFC822_ADDR, sans.encode()),
                    3: Identity(IdType.IPV4_ADDR, bytes([192, 0, 2, 3]))}[number]
        assert world.join(f"n{number}", number, identity=identity, auth=AuthPolicy(credential(own), None)).pairs
    own = issue("CN=key", ROOT, which=5, sans=("b1.one.example",))
    key_id = Identity(IdType.KEY_ID, b"b1.one.example")
    assert not world.join("k", 5, identity=key_id, auth=AuthPolicy(credential(own), None)).pairs
    assert set(world.rows()) == {"branches", "branches[b1.one.example]", "branches[gw@example.net]",
                                 "branches[192.0.2.3]"}


def test_anonymous_remotes_are_kept_apart_and_take_nothing_from_each_other() -> None:
    entry = replace(branches(), pattern=None, remote_identity=NOBODY, auth=AuthPolicy(None, NullAuth()))
    world = World(entry)
    hosts = [world.join(f"n{n}", n, identity=NOBODY, auth=AuthPolicy(NullAuth(), None)) for n in (1, 2)]
    thief = world.join("n3", 3, "10.100.1.0/24", identity=NOBODY, auth=AuthPolicy(NullAuth(), None))
    assert [len(h.pairs) for h in (*hosts, thief)] == [1, 1, 0]
    assert sorted(world.rows().values()) == [0, 0, 1, 1]


def test_reload_that_narrows_the_pattern_closes_who_is_out_and_leaves_the_others() -> None:
    world = World(branches("*.branches.example"))
    world.join("b1", 1)
    world.join("b2", 2, identity=fqdn("b2.branches.example"))
    spis = set(world.head.pairs)
    gateway = world.node(world.head).gateway
    gateway.replace_policy(policy(branches(), peer_policy(
        "b2", None, own="hq.example", other="b2.branches.example", psk=PSK,
        children=(child_policy("b2", "lan", HQ_NETS, "10.200.0.0/16"),))), world.net.now)
    world.head.collect()
    world.net.run(2)
    assert spis & set(world.head.pairs)
    gateway.replace_policy(policy(branches("*.other.example")), world.net.now)
    world.head.collect()
    world.net.run(10)
    assert not world.head.pairs
    assert world.rows() == {"branches": 0}


def test_entry_taken_down_takes_all_its_remotes_down_until_up() -> None:
    world = World(branches())
    for number in (1, 2):
        world.join(f"b{number}", number)
    gateway = world.node(world.head).gateway
    gateway.down("branches", None, world.net.now)
    world.head.collect()
    world.net.run(30)
    assert not world.head.pairs
    gateway.up("branches", None, world.net.now)
    world.head.collect()
    world.net.run(120)
    assert len(world.head.pairs) == 2


def test_packets_for_a_remote_that_is_not_there_are_given_up_and_nobody_gets_them() -> None:
    world = World(branches())
    remote = world.join("b1", 1)
    world.node(world.head).gateway.acquire(KEY, world.net.now)
    world.head.collect()
    world.net.run(5)
    assert "AbandonHeld" in str(world.head.log)
    assert len(remote.pairs) == 1
    absent = from_prefix("10.100.9.0/24")
    assert not any(s.intersect(absent) for p in world.head.pairs.values() for s in p.ts_remote)


def test_strangers_leave_no_trace_in_the_table_of_remotes() -> None:
    world = World(branches())
    for number in range(5):
        world.join(f"x{number}", 50 + number, identity=fqdn(f"x{number}.elsewhere.example"))
        world.join(f"y{number}", 60 + number, psk=Secret(b"another key of thirty-two bytes."))
    world.net.run(60)
    table = world.node(world.head).gateway.endpoint._table
    assert not table._remotes._numbers.get("branches")
    assert not table._by_peer
