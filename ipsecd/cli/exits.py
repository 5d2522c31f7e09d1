"""Exit codes of both programs (docs/control-api.md)."""

from __future__ import annotations

import os

OK = 0
FAILED = 1                          # the daemon did it, and it failed: errors in the file, a tunnel not up
USAGE = 2                           # click's own
UNREACHABLE = 3                     # no daemon answers
FORBIDDEN = 4                       # only root or control.admins may
INTERRUPTED = 130                   # as a shell reports SIGINT
CONFIG = os.EX_CONFIG               # 78: the configuration has errors
