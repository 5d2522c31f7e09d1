"""Packets of every size in every mode and form: fragmented inside or told that they are too big, never cut outside."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pytest

from tests.lab.daemon import Config, Ipsecd, bring_up, default_config
from tests.lab.rig import OUTER_FRAGMENTS, Rig, ping, ping_every_size
from tests.lab.test_host_to_host import carried, dropped
from tests.support.netns import LAB, CommandError, Node

pytestmark = LAB


@dataclass(frozen=True, slots=True)
class Form:
    """How two sites, or two hosts, protect what they say; `family` is that of the outer header."""

    name: str
    family: int
    engine: str
    transport: bool = False

    def __str__(self) -> str:
        return f"{self.name}-{'hosts' if self.transport else 'sites'}-ipv{self.family}-{self.engine}"

    def child(self, rig: Rig, *, left: bool) -> Config:
        site, peer = (rig.a, rig.b) if left else (rig.b, rig.a)
        config = {"local": [site.prefix4, site.prefix6], "remote": [peer.prefix4, peer.prefix6]}
        if self.transport:
            config = {"local": [site.wan(self.family)], "remote": [peer.wan(self.family)]}
        mode = {"mode": "transport" if self.transport else "tunnel", "start": "always" if left else "listen"}
        return {**config, **mode, **({"ah": {"proposals": ["sha256-x25519"]}} if self.name == "ah" else {})}


FORMS = [Form("raw", 4, "native"), Form("raw", 6, "python"), Form("ah", 4, "python"), Form("ah", 6, "native"),
         Form("udp", 4, "native", transport=True), Form("udp", 6, "python", transport=True),
         Form("raw", 4, "python", transport=True), Form("ah", 4, "native", transport=True),
         Form("ah", 6, "python", transport=True)]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_packets_of_every_size_arrive_or_are_told_and_nothing_is_cut_outside(form: Form) -> None:
    with Rig() as rig:
        left, right = daemons(rig, form)
        cut, large = rig.wan.tap("wa"), rig.wan.tap("wa")
        cut.keep(OUTER_FRAGMENTS)
        large.keep(f"greater {14 + 1400} and (ip or ip6)")
        inner = left.child_status()["path_mtu"]
        caller, host = (rig.a.gateway, rig.b.gateway) if form.transport else (rig.a.host, rig.b.host)
        targets = [rig.b.wan(form.family)] if form.transport else [rig.b.host4, rig.b.host6]
        for target in targets:
            header = 48 if ":" in target else 28
            assert str(inner) in too_big(caller, target, inner - header + 1)
            assert carried(caller, host, target, 1_000_000)
            if form.transport:
                ping(caller, target, size=inner - header, options="-M do")
            else:
                ping_every_size(caller, target, inner)
        if form.transport:                         # RFC 4301 7: such an SA carries whole packets only
            before = dropped(left, "outbound_fragment")
            with contextlib.suppress(CommandError):
                ping(caller, targets[0], size=3000, count=1)
            assert dropped(left, "outbound_fragment") > before
        assert cut.frames() == []
        frames = large.frames(outgoing=False)
        if form.name != "udp":                     # whose runs a link of the lab takes uncut (UDP_SEGMENT)
            assert max(len(frame) - 14 for frame in frames) in range(1500 - 20, 1501)
        assert all(frame[20] & 0x40 for frame in frames if frame[12:14] == b"\x08\x00")      # DF
        rig.witness.assert_clean()
        assert "too_big" not in right.child_status()["drops"]


def too_big(node: Node, target: str, size: int) -> str:
    """Return what a ping that must not be fragmented is told; fails where it passes."""
    with pytest.raises(CommandError) as told:
        node.run("ping", "-n", "-c", "1", "-W", "5", "-M", "do", "-s", str(size), target)
    return str(told.value)


def daemons(rig: Rig, form: Form) -> tuple[Ipsecd, Ipsecd]:
    made = []
    for site, peer in ((rig.b, rig.a), (rig.a, rig.b)):
        config = default_config(site, peer, family=form.family)
        config["gateway"]["engine"] = form.engine
        entry = next(iter(config["peers"].values()))
        entry["encapsulation"] = "raw" if form.name == "raw" else "auto"
        entry["children"]["office"] = form.child(rig, left=site is rig.a)
        made.append(Ipsecd(rig, site, peer, config=config))
    right, left = made
    bring_up(left, right)
    return left, right
