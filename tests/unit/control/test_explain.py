"""`ipsecctl policy` says what the data plane does, and why."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from ipsecd.control.explain import MAX_VERDICTS, explain, flow_of
from ipsecd.control.schema import PolicyQuery
from ipsecd.ipsec.spd import Spd
from ipsecd.policy import Action, Policy, RoutingDomain, SpdEntry
from ipsecd.sa import ChildKey, Endpoint, Path, SaPair, SaSpec, TransportEnds, Volume
from ipsecd.secret import Secret
from ipsecd.selectors import TrafficSelector, from_prefix
from ipsecd.suites import ENCRS, INTEGS, AhSuite, EspSuite

OFFICE = ChildKey("hq", "office")
NET_1, NET_2 = from_prefix("10.1.0.0/16"), from_prefix("10.2.0.0/16")
ANY = from_prefix("0.0.0.0/0")
ENTRIES = (
    SpdEntry("printers", Action.BYPASS, (ANY,), (from_prefix("10.2.9.0/24"),)),
    SpdEntry("no-smb", Action.DISCARD, (from_prefix("0.0.0.0/0", 6),), (from_prefix("0.0.0.0/0", 6, (445, 445)),)),
    SpdEntry("guests", Action.DISCARD, (ANY,), (ANY,), interface="guest0"),
    SpdEntry("hq/office", Action.PROTECT, (NET_1,), (NET_2,), OFFICE))


def test_first_match_decides_and_earlier_entries_say_why_not() -> None:
    answer = explain(policy(ENTRIES), (), query("10.1.0.5", "10.2.0.7", 6, 1234, 80))

    assert (answer.action, answer.entry, answer.peer, answer.child) == ("protect", 4, "hq", "office")
    assert [v.why for v in answer.verdicts] == ["remote 10.2.0.7 is not in 10.2.9.0/24",
                                                "remote port 80 is not in 0.0.0.0/0[tcp/445]",
                                                "only what comes from interface guest0", "matches"]
    assert answer.note == "no SA: the peer is asleep, and the packet is dropped"


def test_protocol_hidden_port_and_interface_are_named() -> None:
    smb = ENTRIES[1:2]

    assert whys(smb, query("10.1.0.5", "10.2.0.7", 17, 1, 445)) == ["protocol udp is not in local 0.0.0.0/0[tcp]"]
    assert "shows no remote port" in whys(smb, query("10.1.0.5", "10.2.0.7", 6, None, None))[0]
    assert explain(policy(ENTRIES), (), PolicyQuery(source="10.1.0.5", destination="8.8.8.8",
                                                    interface="guest0")).name == "guests"


def test_inbound_packet_is_seen_from_here() -> None:
    answer = explain(policy(ENTRIES), (), PolicyQuery(source="10.2.0.7", destination="10.1.0.5", inbound=True))

    assert answer.name == "hq/office"


def test_no_match_names_the_default() -> None:
    answer = explain(policy(ENTRIES), (), query("2001:db8::1", "2001:db8::2", 0, None, None))

    assert (answer.action, answer.entry, answer.name) == ("bypass", None, "policies_default")


def test_newest_sa_that_takes_the_packet_is_shown() -> None:
    old, new = pair(0x11, NET_2), pair(0x22, NET_2)
    narrow = pair(0x33, from_prefix("10.2.1.0/24"))

    assert explain(policy(ENTRIES), (old, new, narrow), query("10.1.0.5", "10.2.0.7", 6, 1, 80)).spi == "00000122"
    narrowed = explain(policy(ENTRIES), (narrow,), query("10.1.0.5", "10.2.0.7", 6, 1, 80))
    assert (narrowed.spi, narrowed.note) == (None, "no SA takes it: the peer narrowed the selectors")


def test_sa_in_transport_mode_is_said_to_carry_whole_packets_only() -> None:
    hosts = replace(pair(0x11, NET_2), transport=TransportEnds("10.1.0.5", "10.2.0.7"))

    answer = explain(policy(ENTRIES), (hosts,), query("10.1.0.5", "10.2.0.7", 6, 1, 80))

    assert (answer.spi, answer.note) == (
        "00000111", "in transport mode: fragments, and packets with IP options, are dropped")

    with_ah = replace(hosts, suite=AhSuite(INTEGS[0], esn=False))
    assert explain(policy(ENTRIES), (with_ah,), query("10.1.0.5", "10.2.0.7", 6, 1, 80)).note == (
        "in transport mode: fragments, and packets that prescribe their route, are dropped")


def test_answer_of_a_long_policy_is_bounded() -> None:
    many = tuple(SpdEntry(f"e{n}", Action.BYPASS, (ANY,), (from_prefix("192.0.2.0/24"),)) for n in range(1000))

    answer = explain(policy((*many, *ENTRIES)), (), query("10.1.0.5", "10.2.0.7", 17, 1, 2))

    assert (answer.entry, len(answer.verdicts), answer.skipped) == (1004, MAX_VERDICTS, 1004 - MAX_VERDICTS)


SELECTORS = st.builds(lambda a, n, p, q: TrafficSelector(4, a, min(15, a + n), p, *sorted(q)) if p in (6, 17) else
                      TrafficSelector(4, a, min(15, a + n), p),
                      st.integers(0, 15), st.integers(0, 15), st.sampled_from([0, 6, 17, 1]),
                      st.tuples(st.integers(0, 9), st.integers(0, 9)))
ENTRY = st.builds(lambda local, remote, i: SpdEntry("e", Action.BYPASS, tuple(local), tuple(remote), None, i),
                  st.lists(SELECTORS, min_size=1, max_size=3), st.lists(SELECTORS, min_size=1, max_size=3),
                  st.sampled_from([None, "lan0"]))
PORT = st.none() | st.integers(0, 9)


@given(st.lists(ENTRY, max_size=6), st.integers(0, 15), st.integers(0, 15), st.sampled_from([6, 17, 1]), PORT, PORT,
       st.booleans(), st.sampled_from([None, "lan0", "lan1"]))
def test_explanation_agrees_with_the_data_plane(entries: list[SpdEntry], source: int, destination: int, protocol: int,
                                                sport: int | None, dport: int | None, inbound: bool,
                                                interface: str | None) -> None:
    numbered = tuple(replace(e, name=f"e{n}") for n, e in enumerate(entries, 1))
    asked = PolicyQuery(source=str(ip_address(source)), destination=str(ip_address(destination)), protocol=protocol,
                        source_port=sport, destination_port=dport, inbound=inbound, interface=interface)

    answer = explain(policy(numbered), (), asked)
    decides = Spd(numbered).lookup(flow_of(asked), interface)

    assert answer.name == (decides.name if decides else "policies_default")
    assert all(v.why for v in answer.verdicts)


def policy(entries: tuple[SpdEntry, ...]) -> Policy:
    return Policy(listen=(), peers=(), entries=entries, default_action=Action.BYPASS, domain=RoutingDomain(), inside=(),
                  exclude=(), cookie_threshold=30, source_limit=64)


def query(source: str, destination: str, protocol: int, sport: int | None, dport: int | None) -> PolicyQuery:
    return PolicyQuery(source=source, destination=destination, protocol=protocol, source_port=sport,
                       destination_port=dport)


def whys(entries: tuple[SpdEntry, ...], asked: PolicyQuery) -> list[str]:
    return [v.why for v in explain(policy(entries), (), asked).verdicts]


def pair(spi: int, remote: TrafficSelector) -> SaPair:
    keys = Secret(bytes(36)), Secret(b"")
    path = Path(Endpoint("192.0.2.1", 4500), Endpoint("192.0.2.2", 4500))
    return SaPair(OFFICE, 0, EspSuite(ENCRS[0], None, esn=True), SaSpec(spi, *keys), SaSpec(spi + 0x100, *keys),
                  (NET_1,), (remote,), path, replay_window=64, follow=False, volume=Volume())
