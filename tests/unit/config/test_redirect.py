"""`ike.redirect` (RFC 5685): off, to any gateway or to those of a list, and only of a peer that has to prove a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.support import changed, compiled, errors_of

PEER = "    auth: {psk_file: KEYFILE}\n"


def with_redirect(written: str) -> str:
    return changed((PEER, f"{PEER}    ike: {{redirect: {written}}}\n"))


@pytest.mark.parametrize(("written", "redirect", "to"), [
    ("true", True, ()), ("false", False, ()), ("[GW2.example.net., 203.0.113.8]", True,
                                               ("gw2.example.net", "203.0.113.8")),
    ('["2001:DB8:0:0::8"]', True, ("2001:db8::8",)), ("gw2.example.net", True, ("gw2.example.net",)),
    ('"2001:db8::8"', True, ("2001:db8::8",))])
def test_redirect_is_a_word_or_a_list_of_gateways(tmp_path: Path, written: str, redirect: bool,
                                                  to: tuple[str, ...]) -> None:
    ike = compiled(tmp_path, with_redirect(written)).policy.peers[0].ike
    assert (ike.redirect, ike.redirect_to) == (redirect, to)


def test_redirect_is_off_by_default(tmp_path: Path) -> None:
    assert not compiled(tmp_path, changed()).policy.peers[0].ike.redirect


@pytest.mark.parametrize("written", ["yes", "ture", "[]", "[224.0.0.1]", "[gw2..example]", "[{a: b}]", "300"])
def test_other_values_are_errors_of_their_line(tmp_path: Path, written: str) -> None:
    (error,) = errors_of(tmp_path, with_redirect(written))
    assert "peers.hq.ike.redirect" in error
    assert "ipsecd.yaml:8" in error


@pytest.mark.parametrize("where", ["peer", "defaults"])
def test_redirect_needs_an_identity_that_the_other_gateway_proves(tmp_path: Path, where: str) -> None:
    text = with_redirect("true") if where == "peer" else "defaults: {ike: {redirect: true}}\n" + changed()
    (error,) = errors_of(tmp_path, text.replace("    identity: hq.example.net\n", ""))
    assert "found redirect without an identity" in error
