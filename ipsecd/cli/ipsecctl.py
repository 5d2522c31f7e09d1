"""`ipsecctl`: asks a running ipsecd over its control socket; docs/control-api.md lists the exit codes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click
from pydantic import BaseModel
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

import ipsecd
from ipsecd.cli import answer_views, exits
from ipsecd.cli.flush import flush_domain
from ipsecd.cli.packet import parse_packet
from ipsecd.cli.status_view import status_view
from ipsecd.config.settings import state_directory
from ipsecd.control.client import DEFAULT_SOCKET, Client, Refusal, Unreachable
from ipsecd.control.schema import MAX_PLAN_TEXT, Target
from ipsecd.errors import IpsecdError, LocalError

WATCH_S = 1.0
_ENDLESS = ("status", "events")

_F = TypeVar("_F", bound=Callable[..., Any])


class _Commands(click.Group):
    """Turns what a daemon refuses, or its absence, into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:                    # how --watch and --follow end
            return ctx.exit(exits.OK if ctx.invoked_subcommand in _ENDLESS else exits.INTERRUPTED)
        except Unreachable as error:
            message, code = str(error), exits.UNREACHABLE
        except Refusal as error:
            message, code = str(error), exits.FORBIDDEN if error.answer.error == "forbidden" else exits.FAILED
        except LocalError as error:
            message, code = str(error), exits.FAILED
        except PermissionError as error:
            message, code = f"needs root: {error.strerror}", exits.FORBIDDEN
        click.echo(f"ipsecctl: {message}", err=True)
        return ctx.exit(code)


def json_option(command: _F) -> _F:
    """Add --json to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as JSON.")(command)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--socket", "path", type=click.Path(path_type=Path, readable=False), default=DEFAULT_SOCKET,
              show_default=True, envvar="IPSECD_SOCKET", help="Control socket of the daemon.")
@click.version_option(ipsecd.__version__)
@click.pass_context
def main(ctx: click.Context, path: Path) -> None:
    """Look at and steer a running ipsecd."""
    ctx.obj = Client(path)


def _complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the names of peers, and of a peer's children once its name is written."""
    path = ctx.find_root().params.get("path") or DEFAULT_SOCKET
    try:
        peers = Client(path, timeout_s=1.0).status().peers
    except IpsecdError:
        return []
    names = [peer.name for peer in peers]
    if param.name == "target" and "/" in incomplete:
        names = [f"{peer.name}/{child.name}" for peer in peers for child in peer.children]
    return [name for name in names if name.startswith(incomplete)]


@main.command()
@click.argument("peer", required=False, shell_complete=_complete_target)
@click.option("--watch", is_flag=True, help="Refresh every second.")
@json_option
@click.pass_obj
def status(client: Client, peer: str | None, watch: bool, as_json: bool) -> None:
    """Show the gateway and its peers; with PEER, that one in detail."""
    if as_json:
        _emit_json(client.status(peer))
    elif watch:
        _watch(lambda: status_view(client.status(peer), detailed=peer is not None))
    else:
        _emit([status_view(client.status(peer), detailed=peer is not None)])


def _watch(view: Callable[[], RenderableType]) -> None:
    """Refresh until interrupted; a daemon that restarts is waited for."""
    with Live(view(), console=_console(), auto_refresh=False, screen=True, vertical_overflow="crop") as live:
        while True:
            time.sleep(WATCH_S)
            try:
                live.update(view(), refresh=True)
            except Unreachable as error:
                live.update(Text(str(error), style="red"), refresh=True)


def _target_command(name: str, text: str) -> None:
    @main.command(name, help=text)
    @click.argument("target", metavar="PEER[/CHILD]", shell_complete=_complete_target)
    @click.option("--wait", is_flag=True, help="Return when it is done, or has failed.")
    @json_option
    @click.pass_obj
    def command(client: Client, target: str, wait: bool, as_json: bool) -> None:
        peer, _, child = target.partition("/")
        answer = client.command(name, Target(peer=peer, child=child or None, wait=wait))
        _answer(answer, as_json, answer_views.command_view(answer), ok=answer.ok)


_target_command("up", "Bring a peer's children up, or one of them.")
_target_command("down", "Take a peer or one child down until `up`.")
_target_command("rekey", "Rekey a peer's IKE SA, or one child.")


@main.command()
@click.argument("file", type=click.File("rb"), required=False)
@json_option
@click.pass_obj
def plan(client: Client, file: BinaryIO | None, as_json: bool) -> None:
    """Show what a reload would change; FILE (- is standard input) instead of the daemon's own."""
    text = None
    if file is not None:
        text = _plan_text(file)
    answer = client.plan(text, file.name if file is not None else "")
    _answer(answer, as_json, answer_views.plan_view(answer, nothing="nothing would change"), ok=answer.ok)


def _plan_text(file: BinaryIO) -> str:
    data = file.read(4 * MAX_PLAN_TEXT)              # a character has at most four bytes
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise click.ClickException(f"{file.name}: not UTF-8 text") from None
    if len(text) > MAX_PLAN_TEXT:
        raise click.ClickException(f"{file.name}: more than {MAX_PLAN_TEXT} characters are no configuration")
    return text


@main.command()
@click.option("--wait", is_flag=True, help="Return when the change is applied.")
@json_option
@click.pass_obj
def reload(client: Client, wait: bool, as_json: bool) -> None:
    """Apply the daemon's configuration file; with an error in it nothing changes."""
    answer = client.reload(wait=wait)
    _answer(answer, as_json, answer_views.plan_view(answer, nothing="nothing changed"), ok=answer.ok)


@main.command()
@click.option("--follow", "-f", is_flag=True, help="Wait for more.")
@click.option("--level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@json_option
@click.pass_obj
def events(client: Client, follow: bool, level: str, as_json: bool) -> None:
    """Show what happened."""
    for event in client.events(follow=follow, level=level):
        if as_json:
            click.echo(json.dumps(event))
        else:
            _emit([answer_views.event_view(event)])


@main.command()
@click.argument("packet", nargs=-1, required=True)
@click.option("--in", "inbound", is_flag=True, help="The packet comes from the remote side.")
@click.option("--interface", help="Interface that the packet is forwarded from.")
@json_option
@click.pass_obj
def policy(client: Client, packet: tuple[str, ...], inbound: bool, interface: str | None, as_json: bool) -> None:
    """Show which SPD entry decides about a packet, and why.

    PACKET is SOURCE DESTINATION [PROTOCOL [SPORT DPORT]], such as `10.1.0.5 10.2.0.7 tcp 1234 445`,
    `10.1.0.5:1234 10.2.0.7:445 tcp` or `10.1.0.5 10.2.0.7 icmp 8 0`.
    """
    try:
        query = parse_packet(packet, inbound=inbound, interface=interface)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    answer = client.policy(query)
    _answer(answer, as_json, answer_views.policy_view(answer), ok=True)


@main.command()
@json_option
@click.pass_obj
def doctor(client: Client, as_json: bool) -> None:
    """Look for what commonly breaks a gateway."""
    answer = client.doctor()
    failed = any(check.result == "failed" for check in answer.checks)
    _answer(answer, as_json, answer_views.doctor_view(answer), ok=not failed)


@main.command()
@click.option("--yes", is_flag=True, help="Really: from then on nothing is protected.")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False),
              help="State directory, where it is not the one that goes with the socket.")
@json_option
@click.pass_obj
def flush(client: Client, yes: bool, state: Path | None, as_json: bool) -> None:
    """Remove guard, rules, routes and device that a stopped ipsecd left; root only."""
    if not yes:
        raise click.UsageError("this removes the protection of all traffic; say --yes")
    directory = state or Path(state_directory(str(client.path)))
    removed = flush_domain(directory)
    click.echo(json.dumps({"version": 1, "ok": True, "interface": removed.device, "state": str(directory)}) if as_json
               else f"removed guard, rules, routes and {removed.device}: nothing is protected")


def _answer(answer: BaseModel, as_json: bool, view: Iterable[RenderableType], *, ok: bool) -> None:
    if as_json:
        _emit_json(answer)
    else:
        _emit(view)
    if not ok:
        raise SystemExit(exits.FAILED)


def _emit_json(answer: BaseModel) -> None:
    click.echo(answer.model_dump_json(indent=2, ensure_ascii=True))


def _emit(view: Iterable[RenderableType]) -> None:
    console = _console()
    for part in view:
        console.print(part, soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
