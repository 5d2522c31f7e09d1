"""What scripts/bench makes of its figures."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.lab import bench, plot, sweeps
from tests.lab.faulty import FAULTY
from tests.lab.no_crypto import NO_CRYPTO
from tests.lab.variant import CRATE

TOP = Path(__file__).parents[2]
ROUNDS = {
    "ipsecd-native": [{"tcp_mbit_s": rate, "tcp4_mbit_s": 80.0, "packets_s": 90.0, "us_packet": 2.2,
                       "run_packets_s": 75.0, "rtt_p99_ms": 1.0}
                      for rate in (70.0, 10.0, 60.0)],
    "no-crypto": [{"tcp_mbit_s": 100.0, "tcp4_mbit_s": 100.0, "packets_s": 100.0, "us_packet": 2.0,
                   "run_packets_s": 100.0, "rtt_p99_ms": 1.0}]}
SWEPT = {"1": {"tcp_mbit_s": 100.0, "kb_a_pair": 0.0}, "10000": {"tcp_mbit_s": 95.0, "kb_a_pair": 20.0}}


def test_figures_are_medians_and_their_ratios_to_the_limit() -> None:
    result = bench.medians(ROUNDS)
    assert result["ipsecd-native"]["tcp_mbit_s"] == 60
    assert result["ipsecd-native"]["ratio_to_no-crypto"] == {
        "tcp_mbit_s": 0.6, "tcp4_mbit_s": 0.8, "packets_s": 0.9, "us_packet": 1.1, "run_packets_s": 0.75}
    shown = bench.table(result)
    assert [line.split()[2:] for line in shown.splitlines() if "x limit" in line] == [
        ["0.60", "0.80", "0.90", "1.10", "0.75"]]


def test_sweep_shows_what_its_last_point_has_of_the_first() -> None:
    assert sweeps.table("sas", SWEPT).splitlines()[-1].split() == ["last/first", "0.95"]


def test_plot_is_drawn_as_png_and_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="an extra: ipsecd[plot]")
    files = plot.draw(tmp_path / "figures", bench.medians(ROUNDS), {"sas": SWEPT})
    assert [file.read_bytes()[:5] for file in files] == [b"\x89PNG\r", b"<?xml"]


def test_build_without_ciphers_or_with_panics_is_no_default_and_has_a_name_that_the_daemon_never_loads() -> None:
    features = tomllib.loads((CRATE / "Cargo.toml").read_text())["features"]
    assert features["default"] == ["extension-module"]
    assert not any({"no-crypto", "faults"} & set(others) for others in features.values())
    (extension,) = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools-rust"]["ext-modules"]
    assert "features" not in extension
    for variant in (NO_CRYPTO, FAULTY):
        assert not [file for file in (TOP / "ipsecd").rglob("*.py") if variant.name in file.read_text()]
