"""The daemon's clock and its one timer, both on CLOCK_BOOTTIME: lifetimes run on while the machine sleeps."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import time
from collections.abc import Callable

TURN_S = 0.005                  # what one reader takes of a turn of the loop: timers and the others are waiting
_TFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_MIN_DELAY_S = 1e-6              # an absolute time of zero would disarm the timer
_libc = ctypes.CDLL(None, use_errno=True)


def now() -> float:
    """Return seconds since boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """Return the time of day in Unix seconds: for the validity of certificates, never for timers."""
    return time.time()


class Timer:
    """One timerfd in the event loop: `fire` is called once, at or after the armed time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Callable[[], None]) -> None:
        self._fd: int = _libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = loop
        self._fire = fire
        self._armed: float | None = None
        loop.add_reader(self._fd, self._expired)

    def arm(self, at: float | None) -> None:
        """Fire at `at`, in seconds of now(); None disarms.  Arming the same time again costs nothing."""
        if at == self._armed:
            return
        self._armed = at
        when = 0.0 if at is None else max(at, _MIN_DELAY_S)
        seconds, fraction = divmod(when, 1.0)
        spec = struct.pack("@qqqq", 0, 0, int(seconds), int(fraction * 1e9))
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, spec, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Leave the loop."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:      # rearmed between expiry and this call
            return
        self._armed = None
        self._fire()
