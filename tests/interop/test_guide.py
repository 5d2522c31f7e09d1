"""docs/interop.md: what it tells to write is a valid configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipsecd.config.compile import load_policy

GUIDE = (Path(__file__).parent.parent.parent / "docs" / "interop.md").read_text()
SAMPLES = dict(re.findall(r"^## (.+?)\n.*?^```yaml\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("vendor", SAMPLES)
def test_sample_of_the_guide_is_valid(tmp_path: Path, vendor: str) -> None:
    key = tmp_path / "key.psk"
    key.write_text("0sc3Ryb25nc3dhbi1hbmQtaXBzZWNkLXNoYXJlLXRoaXMtb25l\n")
    key.chmod(0o600)
    file = tmp_path / "ipsecd.yaml"
    peers = re.sub(r"/etc/ipsecd/secrets/\S+?\.psk", str(key), SAMPLES[vendor])
    file.write_text(f"gateway: {{identity: branch-a.example.net}}\n{peers}")
    loaded = load_policy(file, credentials_directory=None)
    assert len(loaded.policy.peers) == 1


def test_guide_has_a_sample_for_every_vendor() -> None:
    assert len(SAMPLES) == len(re.findall(r"^## ", GUIDE, re.MULTILINE)) == 7
