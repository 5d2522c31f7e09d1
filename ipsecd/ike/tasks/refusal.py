"""What ends an IKE SA from within a task."""

from __future__ import annotations

from ipsecd.causes import Failure
from ipsecd.errors import IpsecdError


class SaRefused(IpsecdError):
    """The IKE SA cannot be: `failure` says why here; `notify`, where set, is all that the peer is told."""

    def __init__(self, failure: Failure, notify: int | None = None) -> None:
        super().__init__(failure.summary)
        self.failure = failure
        self.notify = notify
