"""ipsecctl against a real socket: what it prints and how it exits."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

from click.testing import CliRunner, Result

from ipsecd.cli import exits
from ipsecd.cli.ipsecctl import main
from ipsecd.control import schema
from ipsecd.events import Notice
from tests.support.control import FakeService, Running, run_with_server

NOBODY = 65534


def test_status_of_a_healthy_gateway_fits_80_columns(tmp_path: Path) -> None:
    result = ctl(tmp_path, "status", "hq")
    result_all = ctl(tmp_path, "status")

    assert result.exit_code == exits.OK
    assert all(len(line) <= 80 for line in result_all.output.splitlines()), result_all.output
    assert "office" in result_all.output and "1.20 MiB" in result_all.output


def test_status_of_a_failing_peer_shows_cause_both_offers_and_hint(tmp_path: Path) -> None:
    output = ctl(tmp_path, "status").output

    for text in ("no common IKE proposal", "aes256gcm16-prfsha384-x25519", "aes128-sha256-modp2048",
                 "NO_PROPOSAL_CHOSEN", "align peers.P.ike.proposals", "next attempt in 12s", "4 packets held"):
        assert text in output


def test_status_of_one_peer_shows_selectors_and_identities(tmp_path: Path) -> None:
    output = ctl(tmp_path, "status", "hq").output

    for text in ("10.1.0.0/16 === 10.2.0.0/16", "branch.example.net === hq.example.net", "c0ffee01", "NAT local"):
        assert text in output
    assert "lab" not in output


def test_every_json_answer_names_its_version(tmp_path: Path) -> None:
    for words in (["status"], ["up", "hq"], ["plan"], ["reload"], ["policy", "10.1.0.5", "10.2.0.7"], ["doctor"]):
        assert json.loads(ctl(tmp_path, *words, "--json").output)["version"] == 1


def test_unknown_peer_is_a_failure_in_one_line(tmp_path: Path) -> None:
    result = ctl(tmp_path, "status", "nobody")

    assert (result.exit_code, result.output) == (exits.FAILED, "ipsecctl: no peer nobody\n")


def test_absent_daemon_is_told_apart(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--socket", str(tmp_path / "none.sock"), "status"])

    assert result.exit_code == exits.UNREACHABLE
    assert "no ipsecd answers" in result.output


def test_socket_of_others_is_forbidden_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0)
        user = os.geteuid()
        os.seteuid(user or NOBODY)
        try:
            result = CliRunner().invoke(main, ["--socket", str(path), "status"])
        finally:
            os.seteuid(user)

    assert (result.exit_code, result.output.count("\n")) == (exits.FORBIDDEN, 1), result.output
    assert "the group of this socket" in result.output


def test_up_with_wait_fails_with_the_reason(tmp_path: Path) -> None:
    result = ctl(tmp_path, "up", "lab/rack", "--wait")

    assert result.exit_code == exits.FAILED
    assert "lab/rack: failed" in result.output and "aes128-sha256-modp2048" in result.output


def test_reload_of_a_broken_file_lists_every_error_and_fails(tmp_path: Path) -> None:
    problems = ["ipsecd.yaml:3:1: peers.hq: unknown key", "ipsecd.yaml:9:5: peers.lab.address: not an address"]
    service = FakeService(reload_answer=schema.ReloadAnswer(ok=False, problems=problems, generation=3))

    result = ctl(tmp_path, "reload", "--wait", service=service)

    assert result.exit_code == exits.FAILED
    assert all(problem in result.output for problem in problems)


def test_plan_sends_the_text_and_not_the_path(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("bad: true\n")
    service = FakeService()

    result = ctl(tmp_path, "plan", str(file), service=service)

    assert result.exit_code == exits.FAILED
    assert "also bad" in result.output
    assert service.asked == [("plan", "bad: true\n", str(file), True)]


def test_plan_of_what_is_no_configuration_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    file.write_text("#" * (schema.MAX_PLAN_TEXT + 1))

    result = ctl(tmp_path, "plan", str(file))

    assert (result.exit_code, result.output.count("\n")) == (exits.FAILED, 1), result.output
    assert "no configuration" in result.output


def test_policy_is_asked_about_an_icmp_type(tmp_path: Path) -> None:
    result = ctl(tmp_path, "policy", "10.1.0.5", "10.2.0.7", "icmp", "8", "0")

    assert result.exit_code == exits.OK, result.output


def test_policy_shows_the_entry_that_decides_and_why_others_did_not(tmp_path: Path) -> None:
    output = ctl(tmp_path, "policy", "10.1.0.5", "10.2.0.7", "tcp", "1234", "445").output

    assert "10.2.0.7 is not in 10.2.9.0/24" in output
    assert "protect by hq/office, SPI 0badcafe (entry 2 hq/office)" in output


def test_events_without_follow_prints_the_kept_ones_and_ends(tmp_path: Path) -> None:
    def publish(running: Running) -> None:
        running.hub.publish(Notice("started", "generation 1"), 1_700_000_000.0)

    output = ctl(tmp_path, "events", prepare=publish).output

    assert output == '2023-11-14T22:13:20.000Z notice what=started detail="generation 1"\n'


def test_doctor_fails_where_a_check_failed(tmp_path: Path) -> None:
    result = ctl(tmp_path, "doctor")

    assert result.exit_code == exits.FAILED
    assert "sysctl net.ipv4.ip_forward=1" in result.output


def test_policy_with_a_bad_packet_is_a_usage_error(tmp_path: Path) -> None:
    result = ctl(tmp_path, "policy", "10.1.0.5", "nowhere")

    assert result.exit_code == exits.USAGE
    assert "nowhere: not an address" in result.output


def ctl(tmp_path: Path, *words: str, service: FakeService | None = None,
        prepare: object = None) -> Result:
    path = tmp_path / "control.sock"

    async def use(running: Running) -> Result:
        if callable(prepare):
            prepare(running)
        return await asyncio.to_thread(CliRunner().invoke, main, ["--socket", str(path), *words])

    return run_with_server(path, use, service)
