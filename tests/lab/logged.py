"""The log of a daemon in a lab."""

from __future__ import annotations

from pathlib import Path


class Logged:
    """A daemon that writes its log to `log_file`."""

    log_file: Path
    _mark = 0

    def log(self, lines: int = 40) -> str:
        """Return the end of its log."""
        return "\n".join(self._logged().splitlines()[-lines:]) or "(no log)"

    def mark(self) -> None:
        """Let `said` begin here."""
        self._mark = len(self._logged())

    def said(self) -> str:
        """Return its log since `mark`."""
        return self._logged()[self._mark:]

    def _logged(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""
