"""`ipsecd`: runs the gateway, checks a configuration, or raises the guard at boot."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import cast

import click

import ipsecd
from ipsecd.cli import exits
from ipsecd.errors import ConfigError, LocalError
from ipsecd.events import ConfigProblem, Level, LocalFault

DEFAULT_CONFIG = Path("/etc/ipsecd/ipsecd.yaml")
_FILE = click.Path(path_type=Path)      # whatever stands there: the reader says what is wrong with it, and exits 78


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=_FILE, default=DEFAULT_CONFIG, show_default=True, help="Configuration to run.")
@click.option("--check", "checked", type=_FILE, help="Validate a configuration and exit: 0, or 78 if it has errors.")
@click.option("--guard", is_flag=True, help="Install the guard of the last accepted policy and exit.")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False),
              help="With --guard: the state directory, where the configuration cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="With --check: print the findings as JSON.")
@click.version_option(ipsecd.__version__)
def main(config: Path, checked: Path | None, guard: bool, state: Path | None, as_json: bool) -> None:
    """Run the IPsec gateway in the foreground; logs go to standard error."""
    if checked is not None and guard:
        raise click.UsageError("--check and --guard exclude each other")
    if checked is not None:
        raise SystemExit(check(checked, as_json=as_json))
    if guard:
        raise SystemExit(raise_guard(config, state))
    raise SystemExit(run(config))


def check(path: Path, *, as_json: bool) -> int:
    """Print every error and warning of a configuration; return the exit code."""
    from ipsecd.config.check import check as check_file
    from ipsecd.control.doctor import host_warnings

    errors, warnings = check_file(path, credentials_directory=_credentials(), look_at_host=host_warnings)
    if as_json:
        click.echo(json.dumps({"version": 1, "ok": not errors, "problems": errors, "warnings": warnings}, indent=2))
    else:
        for line in errors:
            click.echo(line, err=True)
        for line in warnings:
            click.echo(f"warning: {line}", err=True)
        if not errors:
            click.echo(f"{path}: good" + (f", {len(warnings)} warnings" if warnings else ""))
    return exits.CONFIG if errors else exits.OK


def raise_guard(config: Path, state: Path | None) -> int:
    """Install the guard of the last accepted policy, whatever today's file says; return the exit code."""
    from ipsecd.cli.state import find_state
    from ipsecd.runtime.routing import install
    from ipsecd.runtime.state import load_plan
    from ipsecd.runtime.tun import DeviceBusyError

    directory = state or find_state(config, os.environ.get("STATE_DIRECTORY"))
    try:
        plan = load_plan(directory)
        if plan is None:
            click.echo(f"ipsecd: {directory}: no policy was accepted yet, so there is no guard", err=True)
            return exits.OK
        install(plan)
    except DeviceBusyError:
        return exits.OK                              # a daemon runs, and with it a guard
    except LocalError as error:
        click.echo(f"ipsecd: guard: {error}", err=True)
        return exits.FAILED
    return exits.OK


def run(path: Path) -> int:
    """Run until told to stop; return the exit code."""
    from ipsecd.config.compile import load_policy
    from ipsecd.log import EventLog

    # Keys are in memory: none of it goes to a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A reload that is asked for while we start waits until the daemon can hear it, instead of ending us.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        loaded = load_policy(path, credentials_directory=_credentials())
    except ConfigError as error:
        log = EventLog(sys.stderr)
        for problem in error.problems:
            log.write(ConfigProblem(problem))
        raise_guard(path, None)
        return exits.CONFIG
    from ipsecd import daemon

    log = EventLog(sys.stderr, level=Level(loaded.settings.log_level), form=loaded.settings.log_format)
    try:
        daemon.serve(path, loaded, log)
    except Exception as error:                       # one message for the operator; systemd starts us again
        for cause in _causes(error):
            log.write(LocalFault("daemon", f"{type(cause).__name__}: {cause}"))
            if not isinstance(cause, LocalError):
                traceback.print_exception(cause)
        return exits.FAILED
    finally:
        log.flush()
    return exits.OK


def _causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [cause for part in group.exceptions for cause in _causes(part)]
    return [error]


def _credentials() -> str | None:
    return os.environ.get("CREDENTIALS_DIRECTORY")
