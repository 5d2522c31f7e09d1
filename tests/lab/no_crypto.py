"""A daemon whose native engine leaves out its ciphers: the limit of the path, for scripts/bench alone.

ipsecd cannot load such a build, and its self test would refuse it.

    python -m tests.lab.no_crypto --config FILE
"""

from __future__ import annotations

import sys

from tests.lab.variant import Variant

NO_CRYPTO = Variant("no-crypto")
PROGRAM = (sys.executable, "-m", "tests.lab.no_crypto")


if __name__ == "__main__":
    NO_CRYPTO.run()
