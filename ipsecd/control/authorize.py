"""Who may do what on the control socket: its mode lets the group connect and read; changes need a known user.

SO_PEERCRED holds the credentials at connect time as the kernel saw them; nothing that a client sends counts.
"""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_UCRED = struct.Struct("=iII")      # struct ucred: pid, uid, gid


class PeerCred(NamedTuple):
    """The process at the other end."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid {self.uid} pid {self.pid}"


def peer_cred(sock: socket.socket) -> PeerCred:
    """Return the credentials of the process that connected."""
    return PeerCred(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


@dataclass(frozen=True, slots=True)
class Authority:
    """User IDs that may change anything, beside root."""

    uids: frozenset[int]

    def may_change(self, cred: PeerCred) -> bool:
        """Return whether this process may change anything."""
        return cred.uid == 0 or cred.uid in self.uids


def authority_of(own_uid: int, admins: Sequence[str]) -> tuple[Authority, list[str]]:
    """Resolve `control.admins` once; return the names that this host does not know beside it.

    Names are not looked up for each request: a directory service that hangs must not hang the daemon.
    """
    uids, unknown = {own_uid}, list[str]()
    for name in admins:
        try:
            uids.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            unknown.append(name)
    return Authority(frozenset(uids)), unknown
