"""Properties of the configuration: any text ends in a policy or in ConfigError; a plan is what a reload then does."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecd.config.compile import Loaded, compile_accepted
from ipsecd.config.diff import diff
from ipsecd.config.overlap import boxes_of, covered, overlapping
from ipsecd.errors import ConfigError
from ipsecd.policy import Action, Policy, SpdEntry
from ipsecd.selectors import TrafficSelector

WORDS = [
    "gateway", "peers", "children", "local", "remote", "auth", "psk", "ike", "esp", "policies", "defaults", "no",
    "::/0", "10.1.0.0/16", "&a", "*a", "<<", "!!str", "22:22", "012", "-", "? ", "[", "]", "{", "}", ": ", ", ", "\n",
    "\n  ", "'", '"', "|", ">", "%TAG", "---", "...", "#", "\t", "\x00", "\ufeff", "\ud7ff", "hq", "4h", "lifetime",
    "0x10",
]


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(WORDS), max_size=60).map("".join)))
def test_any_text_is_a_policy_or_a_config_error(text: str) -> None:
    outcome(text)


LEAVES = st.one_of(st.sampled_from(WORDS), st.text(max_size=12), st.integers(), st.booleans(), st.none())
TREES = st.recursive(LEAVES, lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)), max_leaves=25)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([
    "gateway", "defaults", "peers", "policies", "control", "metrics", "log"]), TREES))
def test_any_tree_is_a_policy_or_a_config_error(tree: object) -> None:
    outcome(json.dumps(tree))


VALUES = ["", "0", "-1", "no", "x", "9" * 400, "::", "10.0.0.0/8", "1.2.3.4-1.2.3.4", "0s", "dn:=", "keyid:", "%",
          "5h", "a@b"]
KEYS = ["gateway.identity", "gateway.listen", "gateway.mark.own", "gateway.tables.wide", "gateway.priority",
        "peers.hq.address", "peers.hq.identity", "peers.hq.auth.psk", "peers.hq.enabled", "peers.hq.ike.lifetime",
        "peers.hq.ike.proposals", "peers.hq.children.c.local", "peers.hq.children.c.remote", "metrics.listen",
        "peers.hq.children.c.esp.replay_window", "peers.hq.children.c.esp.lifetime_bytes", "control.socket"]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), st.one_of(st.sampled_from(VALUES), st.text(max_size=20)), max_size=5))
def test_any_values_are_a_policy_or_a_config_error(said: dict[str, str]) -> None:
    tree: dict[str, object] = {"peers": {"hq": {
        "address": "192.0.2.9", "auth": {"psk": "k" * 31 + "x"},
        "children": {"c": {"local": "10.1.0.0/16", "remote": "10.2.0.0/16"}}}}}
    for path, value in said.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[last] = value
    found = outcome(json.dumps(tree))
    if isinstance(found, Loaded):
        assert compile_accepted(found.text, "again").policy == found.policy
        assert diff(found.policy, found.policy) == ()


def outcome(text: str) -> Loaded | list[str]:
    try:
        return compile_accepted(text, "f")
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(line.startswith("f:") and "\n" not in line for line in problems)
    return problems


# Small numbers make boxes that meet, and a naive check of every packet possible.
RANGES = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(lambda pair: (min(pair), max(pair)))


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    low, high = draw(RANGES)
    ports = draw(st.one_of(st.just((0, 65535)), st.just((65535, 0)), RANGES))
    return TrafficSelector(4, low, high, 6, *ports)


ENTRIES = st.lists(st.builds(
    lambda local, remote: SpdEntry("e", Action.PROTECT, (local,), (remote,)), selectors(), selectors()), max_size=4)


@settings(max_examples=100, deadline=None)
@given(ENTRIES, selectors(), selectors())
def test_covered_agrees_with_trying_every_packet(
        earlier: list[SpdEntry], local: TrafficSelector, remote: TrafficSelector) -> None:
    entry = SpdEntry("late", Action.PROTECT, (local,), (remote,))
    mine = packets(entry)
    assert covered(entry, earlier) == (mine <= frozenset().union(*map(packets, earlier)))
    met = {i for i, other in enumerate(earlier) if mine & packets(other)}
    assert set(overlapping([*earlier, entry]).get(len(earlier), [])) == met
    assert boxes_of(entry)


def packets(entry: SpdEntry) -> frozenset[tuple[int, ...]]:
    ports = (0, 1, 2, 3, 4, 5, 6, 65536)        # 6 stands for every other port, 65536 for ports that do not show

    def side(selector: TrafficSelector) -> list[tuple[int, int]]:
        return [(a, p) for a in range(selector.low, selector.high + 1) for p in ports if selector.matches(
            version=4, address=a, protocol=6, port=None if p == 65536 else p)]
    return frozenset((*one, *other) for lo in entry.local for re in entry.remote for one in side(lo)
                     for other in side(re))


TEXT = json.dumps({"peers": {name: {
    "address": f"192.0.2.{i}", "auth": {"psk": "k" * 31 + "x"},
    "children": {c: {"local": f"10.{i}.{j}.0/24", "remote": "10.200.0.0/16"} for j, c in enumerate("xyz")}}
    for i, name in enumerate("abc", 1)}})
BASE = compile_accepted(TEXT, "f").policy


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Draw a policy: some of the base's peers and children in any order, with some lifetimes changed."""
    peers = []
    for peer in draw(st.permutations(BASE.peers)):
        if draw(st.booleans()):
            children = [c for c in draw(st.permutations(peer.children)) if draw(st.booleans())]
            if children and draw(st.booleans()):
                children[0] = replace(children[0], lifetime_s=draw(st.sampled_from([100.0, 200.0])))
            peers.append(replace(peer, children=tuple(children), ike=replace(
                peer.ike, dpd_s=draw(st.sampled_from([1.0, 2.0])))))
    entries = tuple(SpdEntry(str(c.key), Action.PROTECT, c.local, c.remote, c.key) for p in peers for c in p.children)
    return replace(BASE, peers=tuple(peers), entries=entries)


@settings(max_examples=60, deadline=None)
@given(policies(), policies())
def test_diff_is_empty_exactly_where_both_mean_the_same(old: Policy, new: Policy) -> None:
    # RL-12: the plan names every difference and no other; the order of entries that never meet is none.
    def content(policy: Policy) -> dict[str, object]:
        return {p.name: (replace(p, children=()), {c.key: c for c in p.children}) for p in policy.peers}
    assert (diff(old, new) == ()) == (content(old) == content(new))
    changed = {getattr(c, "peer", None) or getattr(c, "child").peer for c in diff(old, new)}  # noqa: B009
    before, after = content(old), content(new)
    assert changed == {name for name in before | after if before.get(name) != after.get(name)}
