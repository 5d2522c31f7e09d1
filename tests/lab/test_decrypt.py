"""tshark, given the keys, reads what crossed the WAN: a second opinion on every byte of ESP and IKE."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.lab.command import rekey_child
from tests.lab.daemon import Config, Ipsecd
from tests.lab.keylog import keylog, tables
from tests.lab.rig import Rig, ping
from tests.support.netns import LAB

pytestmark = [*LAB, pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is missing")]

# Without ESN: this tshark knows 32-bit sequence numbers only, so it could not check an ICV over the others.
SUITES = {"aes256gcm16-prfsha384-x25519": "aes256gcm16-x25519-noesn",
          "aes128-sha256-ecp256": "aes128-sha256-ecp256-noesn",
          "aes256-sha512-modp2048": "aes256-sha512-noesn"}
SIZES = (8, 56, 333, 1200)


@pytest.mark.parametrize(("ike", "encapsulation"), [*((ike, "udp") for ike in SUITES), (next(iter(SUITES)), "raw")])
def test_tshark_decrypts_a_capture_with_the_keys_of_one_end(ike: str, encapsulation: str) -> None:
    esp = SUITES[ike]
    with Rig() as rig:
        left, right = (Ipsecd(rig, site, peer) for site, peer in ((rig.a, rig.b), (rig.b, rig.a)))
        for daemon in (left, right):
            daemon.change(lambda config: only(config, ike, esp))
            daemon.change(lambda config: next(iter(config["peers"].values())).update(encapsulation=encapsulation))
        right.change(lambda config: office(config).update(start="listen"))
        keys, capture = left.directory / "keys", left.directory / "wan.pcap"
        tap = rig.wan.tap("wa")
        right.start()
        left.start(before=keylog(keys))
        left.wait_up()
        for size in SIZES:
            for target in (rig.b.host4, rig.b.host6):
                ping(rig.a.host, target, count=1, size=size)
        rekey_child(left)
        ping(rig.a.host, rig.b.host4, count=1)
        save(capture, tap.frames(outgoing=False))
        esp_seen = tshark(capture, keys, "esp", "esp.spi", "esp.icv_good", "ip.dst", "ipv6.dst", "icmp.type",
                          "icmpv6.type")
        ike_seen = tshark(capture, keys, "isakmp.exchangetype == 35", "isakmp.id.data.fqdn", "isakmp.ts.start_ipv4")
    echoes = [row for row in esp_seen if row[4] in ("8", "0") or row[5] in ("128", "129")]
    assert len(echoes) == 2 * (2 * len(SIZES) + 1)
    assert len({row[0] for row in echoes}) == 4                      # two pairs, each way
    assert {row[2].split(",")[-1] for row in echoes if row[4]} == {rig.a.host4, rig.b.host4}
    assert {row[3] for row in echoes if row[5]} == {rig.a.host6, rig.b.host6}
    assert {row[1] for row in esp_seen} == {"1"}
    for column, expected in enumerate(({"branch-a.example.net", "hq.example.net"}, {"10.1.0.0", "10.2.0.0"})):
        assert {text for row in ike_seen for text in row[column].split(",")} >= expected


def test_tshark_finds_the_upper_layer_right_behind_esp_in_transport_mode() -> None:
    with Rig() as rig:
        a, b = rig.a.wan4, rig.b.wan4
        left, right = (Ipsecd(rig, site, peer) for site, peer in ((rig.a, rig.b), (rig.b, rig.a)))
        for daemon, local, remote, start in ((left, a, b, "always"), (right, b, a, "listen")):
            daemon.change(lambda config: only(config, *next(iter(SUITES.items()))))
            daemon.change(lambda config, keys={"local": [local], "remote": [remote], "start": start}: office(
                config).update(keys, mode="transport"))
        keys, capture = left.directory / "keys", left.directory / "wan.pcap"
        tap = rig.wan.tap("wa")
        right.start()
        left.start(before=keylog(keys))
        left.wait_up()
        for size in SIZES:
            ping(rig.a.gateway, b, count=1, size=size)
        save(capture, tap.frames(outgoing=False))
        seen = tshark(capture, keys, "esp", "esp.icv_good", "esp.protocol", "ip.dst", "icmp.type")
    echoes = [row for row in seen if row[3] in ("8", "0")]
    assert len(echoes) == 2 * len(SIZES)
    assert {row[1] for row in echoes} == {"0x01"}
    assert {row[2] for row in echoes} == {a, b}                      # one IP header each, the outer one
    assert {row[0] for row in seen} == {"1"}


def save(file: Path, frames: list[bytes]) -> None:
    """Write Ethernet frames as a capture file, all at time 0."""
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    file.write_bytes(header + b"".join(struct.pack("=IIII", 0, 0, len(f), len(f)) + f for f in frames))


def tshark(capture: Path, keys: Path, show: str, *fields: str) -> list[list[str]]:
    """Return these fields of the packets that tshark shows, decrypted."""
    command = ["tshark", "-n", "-r", str(capture), "-Y", show, "-T", "fields", "-E", "separator=|",
               "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"]
    command += [word for field in fields for word in ("-e", field)]
    done = subprocess.run(command + tables(keys), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


def only(config: Config, ike: str, esp: str) -> None:
    """Offer one suite."""
    peer = next(iter(config["peers"].values()))
    peer["ike"] = {"proposals": [ike]}
    office(config)["esp"] = {"proposals": [esp]}


def office(config: Config) -> Config:
    """Return the only child."""
    found: Config = next(iter(config["peers"].values()))["children"]["office"]
    return found
