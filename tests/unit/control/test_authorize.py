"""Who may change: root, ourselves, control.admins; as the kernel says and not the client."""

from __future__ import annotations

import os
import socket

import pytest

from ipsecd.control.authorize import Authority, PeerCred, authority_of, peer_cred


@pytest.mark.parametrize(("uid", "allowed"), [(0, True), (990, True), (1000, True), (1001, False)])
def test_changes_need_root_our_user_or_an_admin(uid: int, allowed: bool) -> None:
    assert Authority(frozenset({990, 1000})).may_change(PeerCred(1, uid, 990)) is allowed


def test_admin_names_are_resolved_and_unknown_ones_returned() -> None:
    authority, unknown = authority_of(990, ["daemon", "no-such-user-here"])

    assert authority.may_change(PeerCred(1, 990, 0)) and authority.may_change(PeerCred(1, 1, 1))
    assert unknown == ["no-such-user-here"]


def test_peer_cred_is_the_kernels() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_cred(ours) == PeerCred(os.getpid(), os.getuid(), os.getgid())
