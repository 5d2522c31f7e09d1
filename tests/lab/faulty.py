"""A daemon whose native engine panics on a packet that holds `ORDER`: for tests of what a panic leaves behind.

ipsecd cannot load such a build.

    python -m tests.lab.faulty --config FILE
"""

from __future__ import annotations

import sys

from tests.lab.variant import Variant

FAULTY = Variant("faults")
PROGRAM = (sys.executable, "-m", "tests.lab.faulty")
ORDER = b"ipsecd: panic at this packet"      # as in faults.rs


if __name__ == "__main__":
    FAULTY.run()
