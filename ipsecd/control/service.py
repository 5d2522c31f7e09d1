"""Service: what the control socket asks of the daemon.  daemon.py implements it; tests have a fake of their own.

Calls come from the loop's thread.  A client that goes away in the middle does not cancel a call.  Every method may
raise UnknownName; anything else it raises is a fault of ours, reported as LocalFault and answered with `local_error`.
"""

from __future__ import annotations

from typing import Protocol

from ipsecd.control.schema import (
    CommandAnswer,
    DoctorAnswer,
    PlanAnswer,
    PolicyAnswer,
    PolicyQuery,
    ReloadAnswer,
    StatusAnswer,
)
from ipsecd.errors import IpsecdError


class UnknownName(IpsecdError):
    """No peer or child of this name is configured, or an argument has a meaning that policy cannot answer."""


class Service(Protocol):
    """The daemon as the control socket sees it."""

    async def status(self, peer: str | None = None) -> StatusAnswer:
        """Return everything, for every peer; or for one, and for none where nobody has this name."""
        ...

    async def up(self, peer: str, child: str | None, *, wait: bool) -> CommandAnswer:
        """Bring a peer's children up, or one of them; waiting is bounded by the callee."""
        ...

    async def down(self, peer: str, child: str | None, *, wait: bool) -> CommandAnswer:
        """Take a peer or one child down until `up`."""
        ...

    async def rekey(self, peer: str, child: str | None, *, wait: bool) -> CommandAnswer:
        """Rekey the IKE SA, or one child where given."""
        ...

    async def plan(self, text: str | None, filename: str, *, may_open_files: bool) -> PlanAnswer:
        """Return what a reload of `text` (None: of our own file) would change; never raises ConfigError.

        Without `may_open_files` no path that the text names may be opened or even tested: the caller only reads, and
        must not learn through a privileged daemon what other files hold.
        """
        ...

    async def reload(self, *, wait: bool) -> ReloadAnswer:
        """Reload our own file as one transaction; errors are in the answer, and nothing changed then."""
        ...

    async def policy(self, query: PolicyQuery) -> PolicyAnswer:
        """Return the entry that decides about a packet (see explain.explain)."""
        ...

    async def doctor(self) -> DoctorAnswer:
        """Look at the host for what commonly breaks a gateway."""
        ...
