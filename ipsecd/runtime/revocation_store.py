"""Fetched CRLs and OCSP responses in the state directory: they outlive a restart while their server is away.

They are signed, and hold until the end that they name: what is read here is checked like what came by the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from ipsecd.ike.crypto.revocation import MAX_EVIDENCE_BYTES

MAX_CACHED = 256            # answers; beyond, the oldest go
MAX_CACHED_BYTES = 16 << 20
_FOLDER = "revocation"
Key = tuple[str, bytes]     # URL and request


class RevocationStore:
    """One file an answer.  A disk that fails costs what it would have kept, and nothing else: no method raises."""

    def __init__(self, state: Path) -> None:
        self._folder = state / _FOLDER

    def load(self, key: Key) -> bytes | None:
        """Return what was saved, None without anything of a legal size."""
        try:
            descriptor = os.open(self._file(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                data = file.read(MAX_EVIDENCE_BYTES + 1)
        except OSError:
            return None
        return data if 0 < len(data) <= MAX_EVIDENCE_BYTES else None

    def save(self, key: Key, data: bytes) -> None:
        """Replace what is stored for a key, and remove the oldest beyond the limits; a crash leaves old or new."""
        target = self._file(key)
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)        # not synchronised: a list that a power cut damages is fetched again
            fresh.replace(target)
            self._prune()
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)

    def _file(self, key: Key) -> Path:
        url, body = key
        return self._folder / hashlib.sha256(url.encode() + b"\0" + body).hexdigest()

    def _prune(self) -> None:
        room, count = MAX_CACHED_BYTES, MAX_CACHED
        for _, size, path in sorted(((s.st_mtime_ns, s.st_size, p) for p in self._folder.iterdir()
                                     for s in (p.lstat(),)), reverse=True):
            room, count = room - size, count - 1
            if room < 0 or count < 0:
                path.unlink(missing_ok=True)
