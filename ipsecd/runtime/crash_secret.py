"""The secret of our crash tokens (RFC 6290 5.1), kept in the state directory for a restarted gateway to have it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from ipsecd.events import Event, Warned
from ipsecd.secret import Secret

_FILE = "crash-secret"
_BYTES = 32


def crash_secret(directory: Path, publish: Callable[[Event], None]) -> Secret | None:
    """Return the stored secret, a new one where there is none; None, with a warning, where it cannot be kept."""
    target = directory / _FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _read(target) or _make(target)
    except OSError as error:
        publish(Warned("no_crash_detection", f"{target}: {error.strerror}"))
        return None


def _read(target: Path) -> Secret | None:
    """Return what is stored; None for a file that is cut short, or that others may read: both are made anew."""
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        about, value = os.fstat(descriptor), os.read(descriptor, _BYTES + 1)
    finally:
        os.close(descriptor)
    own = about.st_uid == os.geteuid() and about.st_mode & 0o077 == 0
    return Secret(value) if own and len(value) == _BYTES else None


def _make(target: Path) -> Secret:
    fresh = target.with_name(f".{_FILE}.{os.getpid()}")
    value = os.urandom(_BYTES)
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
    return Secret(value)
