"""`ppk`: the post-quantum pre-shared key of a peer (RFC 8784)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipsecd.config.compile import compile_text
from ipsecd.config.diff import PeerChanged, diff
from ipsecd.policy import Ppk
from ipsecd.secret import Secret
from tests.unit.config.support import GOOD, KEY, changed, compiled, errors_of

AUTH = "auth: {psk_file: KEYFILE}"


def with_ppk(text: str) -> str:
    return changed((AUTH, f"{AUTH}\n    ppk: {text}"))


def test_ppk_is_read_and_required_unless_said_otherwise(tmp_path: Path) -> None:
    peer = compiled(tmp_path, with_ppk("{id: hq-2026, file: KEYFILE}")).policy.peers[0]
    assert peer.ppk == Ppk(b"hq-2026", Secret(KEY), required=True)
    peer = compiled(tmp_path, with_ppk("{id: hq-2026, file: KEYFILE, required: false}")).policy.peers[0]
    assert peer.ppk is not None
    assert not peer.ppk.required


@pytest.mark.parametrize(("text", "problem"), [
    ("{file: KEYFILE}", "8:5: peers.hq.ppk.id: found nothing; expected this key, which is required"),
    ("{id: x}", "8:5: peers.hq.ppk.file: found nothing; expected this key, which is required"),
    ("{id: schl\u00fcssel, file: KEYFILE}", "8:15: peers.hq.ppk.id: found 'schl\u00fcssel'; expected a name of "),
    ("{id: x, file: DIR/short}", "8:24: peers.hq.ppk.file: found a key of 31 bytes, or of one repeated byte; expected "
                                 "at least 32 random bytes"),
    ("{id: x, file: DIR/open}", "8:24: peers.hq.ppk.file: found mode 0644"),
    ("{id: x, file: /nonexistent}", "8:24: peers.hq.ppk.file: found a key that cannot be read"),
])
def test_ppk_with_an_error_is_named_with_its_place(text: str, problem: str, tmp_path: Path) -> None:
    for name, data, mode in (("short", KEY[:31], 0o600), ("open", KEY, 0o644)):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(mode)
    found = errors_of(tmp_path, with_ppk(text.replace("DIR", str(tmp_path))))
    assert any(problem in line for line in found), found


def test_changed_ppk_makes_the_ike_sa_anew_and_one_not_read_changes_nothing(tmp_path: Path) -> None:
    old = compiled(tmp_path, with_ppk("{id: a, file: KEYFILE}"))
    for text in (GOOD, with_ppk("{id: b, file: KEYFILE}"), with_ppk("{id: a, file: KEYFILE, required: false}")):
        assert diff(old.policy, compiled(tmp_path, text).policy) == (PeerChanged("hq", ("ppk",), disruptive=True),)
    unread = compile_text(old.text, "plan", known_sources=frozenset(), credentials_directory=None)
    assert diff(old.policy, unread.policy) == ()
