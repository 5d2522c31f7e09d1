"""Reads a regular file once, with the facts of what was opened and not of what the name points to a moment later."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """Return at most `limit` + 1 bytes of a regular file, and its status.

    Raises ValueError with the reason, without the path.
    """
    try:
        # O_NONBLOCK: a FIFO in the place of the file must not hang the daemon.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError(error.strerror) from None
    except ValueError:
        raise ValueError("unusable file name") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        return _read(descriptor, limit + 1), status
    except OSError as error:
        raise ValueError(error.strerror) from None
    finally:
        os.close(descriptor)


def _read(descriptor: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := os.read(descriptor, count - len(data))):
        data += piece
    return bytes(data)
