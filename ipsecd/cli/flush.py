"""`ipsecctl flush --yes`: the one way to take the guard down, for a daemon that does not run (any more)."""

from __future__ import annotations

import os
from pathlib import Path

from ipsecd.policy import RoutingDomain


def flush_domain(state: Path) -> RoutingDomain:
    """Remove all that the domain of the stored plan installed, and the plan; the default domain where none is stored.

    Raises PermissionError without root, and LocalError while a daemon runs or where the plan cannot be read.
    """
    if os.geteuid() != 0:
        raise PermissionError(1, "only root takes the guard down")
    from ipsecd.runtime.routing import flush
    from ipsecd.runtime.state import load_plan, remove_plan

    plan = load_plan(state)
    domain = plan.domain if plan is not None else RoutingDomain()
    flush(domain)
    remove_plan(state)
    return domain
