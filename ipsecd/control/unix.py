"""Binding the control socket: never open wider than its final mode, never in place of something that is not ours."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from ipsecd.control.site import BACKLOG
from ipsecd.errors import LocalError

MODE = 0o660                        # owner and group connect; what they may do is decided by authorize


def bind_control(path: Path, *, gid: int | None = None) -> socket.socket:
    """Return a listening socket at `path`, owned by group `gid` where given.

    A socket that a dead daemon left is replaced.  Raises LocalError where a daemon answers there, or where `path` is
    anything but a socket of root or our own user.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        before = os.umask(0o177)                 # 0600 from the first instant: mode and group are set before listen()
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise LocalError(f"control socket {path}: {error.strerror or error}") from error
    return listener


def remove_control(path: Path) -> None:
    """Remove the socket at an orderly stop; whatever else stands there stays."""
    with suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise LocalError(f"control socket {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in (0, os.geteuid()):
        raise LocalError(f"control socket {path}: something that is not our socket is there; remove it by hand")
    if _answers(path):
        raise LocalError(f"control socket {path}: another ipsecd answers there")
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:                  # its backlog is full: it lives
            return True
        except OSError:
            return False
        return True
