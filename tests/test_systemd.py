"""The unit files: what the service manager is told, and that what it is told still lets the daemon run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
SERVICES = ("ipsecd.service", "ipsecd-guard.service")

needs_systemd_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")


@needs_systemd_analyze
@pytest.mark.parametrize("service", SERVICES)
def test_unit_exposure_is_at_most_2_1(service: str) -> None:
    command = ("systemd-analyze", "security", "--offline=yes", "--no-pager", str(UNITS / service))
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Overall exposure level .*: (\d+\.\d+)", report)
    assert found is not None
    assert float(found[1]) <= 2.1


@needs_systemd_analyze
@pytest.mark.parametrize("service", SERVICES)
def test_unit_is_understood_by_systemd(service: str) -> None:
    command = ("systemd-analyze", "verify", str(UNITS / service))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines()
                  if service in line and not line.endswith("is not executable: No such file or directory")]
    assert complaints == []                      # the commands are found only where the package is installed


def test_service_restarts_for_ever_but_not_after_a_configuration_error() -> None:
    unit = dict(settings("ipsecd.service"))
    assert unit["Type"] == "notify"
    assert unit["Restart"] == "always"
    assert unit["RestartSec"] == "100ms"
    assert unit["StartLimitIntervalSec"] == "0"
    assert unit["RestartPreventExitStatus"] == "78"
    assert "WatchdogSec" in unit


def test_service_holds_three_capabilities() -> None:
    unit = dict(settings("ipsecd.service"))
    wanted = {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}
    assert set(unit["AmbientCapabilities"].split()) == wanted
    assert set(unit["CapabilityBoundingSet"].split()) == wanted


def test_guard_comes_before_the_network_and_after_what_flushes_nftables() -> None:
    unit = dict(settings("ipsecd-guard.service"))
    assert "network-pre.target" in unit["Before"].split()
    assert "nftables.service" in unit["After"].split()
    assert unit["DefaultDependencies"] == "no"
    assert "ExecStop" not in unit


def test_every_module_loads_where_memory_is_never_writable_and_executable() -> None:
    # MemoryDenyWriteExecute of the unit, by the kernel's own switch (Linux 6.3): PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN.
    program = ("import ctypes, importlib, pkgutil, sys, ipsecd\n"
               "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)\n"
               "for found in pkgutil.walk_packages(ipsecd.__path__, 'ipsecd.'): importlib.import_module(found.name)\n")
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr


def settings(service: str) -> Iterator[tuple[str, str]]:
    """Yield the assignments of a unit file."""
    for line in (UNITS / service).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            yield key, value
