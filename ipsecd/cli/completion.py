"""Bash completion: `python -m ipsecd.cli.completion etc/completion` writes it; a test holds the files."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.shell_completion import BashComplete

from ipsecd.cli.ipsecctl import main as ipsecctl
from ipsecd.cli.ipsecd import main as ipsecd

PROGRAMS: dict[str, click.Command] = {"ipsecctl": ipsecctl, "ipsecd": ipsecd}


def script(name: str) -> str:
    """Return the completion script of a program."""
    complete = BashComplete(PROGRAMS[name], {}, name, f"_{name.upper()}_COMPLETE")
    return complete.source_template % complete.source_vars()


if __name__ == "__main__":
    for program in PROGRAMS:
        Path(sys.argv[1], f"{program}.bash").write_text(script(program), encoding="utf-8")
