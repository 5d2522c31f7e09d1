"""What the bench compares: each makes a tunnel between the two sites of a rig, in user space, with one flow's worth of
set-up and nothing tuned beyond what its own documentation says to expect.
"""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ipsecd.engine.choose import native_missing
from tests.lab import no_crypto
from tests.lab.daemon import Ipsecd
from tests.lab.rig import Rig, Site, answers
from tests.lab.swan import Swan
from tests.support.netns import eventually


class Contender(Protocol):
    """A kind of tunnel."""

    name: str

    def missing(self) -> str:
        """Return why it cannot run here, or nothing."""
        ...

    def connect(self, rig: Rig, stack: ExitStack) -> Callable[[], dict[str, Any]]:
        """Bring the tunnel up; what must be ended goes on the stack. Return what reads its own figures."""
        ...


class Plain:
    """The same path without a tunnel: what the rig and iperf3 cost by themselves."""

    name = "no tunnel"

    def missing(self) -> str:
        return ""

    def connect(self, rig: Rig, stack: ExitStack) -> Callable[[], dict[str, Any]]:
        rig.wan.ip(f"route add {rig.a.prefix4} via {rig.a.wan4}", f"route add {rig.b.prefix4} via {rig.b.wan4}")
        return dict


class StrongSwan:
    """charon with kernel-libipsec and the AES-NI plugin, as Debian loads them."""

    name = "strongSwan kernel-libipsec"

    def missing(self) -> str:
        return "" if shutil.which("charon-systemd") else "charon-systemd is not installed"

    def connect(self, rig: Rig, stack: ExitStack) -> Callable[[], dict[str, Any]]:
        far, near = (Swan(rig, site, peer, local_ts=site.prefix4, remote_ts=peer.prefix4)
                     for site, peer in ((rig.b, rig.a), (rig.a, rig.b)))
        for swan in (far, near):
            swan.start()
            stack.callback(swan.stop)
        near.initiate()
        return dict


class OpenVpn:
    """OpenVPN over UDP with AES-256-GCM, keys agreed by TLS with certificates known by fingerprint."""

    name = "OpenVPN AES-256-GCM"

    def missing(self) -> str:
        return "" if shutil.which("openvpn") else "openvpn is not installed"

    def connect(self, rig: Rig, stack: ExitStack) -> Callable[[], dict[str, Any]]:
        prints = {site.name: _self_signed(rig.directory / f"openvpn-{site.name}") for site in (rig.a, rig.b)}
        for site, peer, role in ((rig.b, rig.a, "tls-server"), (rig.a, rig.b, "tls-client")):
            self._start(rig, site, peer, role, prints[peer.name])
        return dict

    def _start(self, rig: Rig, site: Site, peer: Site, role: str, fingerprint: str) -> None:
        base = rig.directory / f"openvpn-{site.name}"
        inside = ("10.99.0.1", "10.99.0.2")
        if site.name == "b":
            inside = inside[::-1]
        network, mask = peer.prefix4.split("/")[0], "255.255.0.0"
        site.gateway.popen(
            "openvpn", "--dev", "tun0", "--dev-type", "tun", "--disable-dco", "--proto", "udp4", f"--{role}",
            *(("--dh", "none") if role == "tls-server" else ()),
            "--local", site.wan4, "--remote", peer.wan4, "--ifconfig", *inside, "--route", network, mask,
            "--cert", f"{base}.pem", "--key", f"{base}.key", "--peer-fingerprint", fingerprint,
            "--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM", "--verb", "3", "--log", f"{base}.log")


class WireGuard:
    """wireguard-go, built from its module by the Go tool, or Debian's package; configured by its control socket."""

    name = "wireguard-go"

    def __init__(self) -> None:
        self._program = ""

    def missing(self) -> str:
        self._program = shutil.which("wireguard-go") or _built_wireguard()
        return "" if self._program else "no wireguard-go, and no Go that could build it"

    def connect(self, rig: Rig, stack: ExitStack) -> Callable[[], dict[str, Any]]:
        keys = {site.name: X25519PrivateKey.generate() for site in (rig.a, rig.b)}
        for site, peer in ((rig.b, rig.a), (rig.a, rig.b)):
            # The control socket lies in a directory that all namespaces share, under the interface's name.
            interface = f"wg{rig.lab.tag[2:]}{site.name}"[:15]
            control = Path("/var/run/wireguard", f"{interface}.sock")
            site.gateway.popen("env", "LOG_LEVEL=error", self._program, "-f", interface, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
            stack.callback(control.unlink, missing_ok=True)
            if not eventually(control.is_socket, within_s=5):
                raise AssertionError("wireguard-go did not start")
            _configure_wireguard(control, private=keys[site.name], peer=keys[peer.name], endpoint=f"{peer.wan4}:51820",
                                 allowed=peer.prefix4)
            site.gateway.ip(f"link set {interface} up", f"route add {peer.prefix4} dev {interface}")
        return dict


class IpsecdReference:
    """ipsecd with its engine in Python."""

    name = "ipsecd (Python engine)"
    engine = "python"
    program: tuple[str, ...] = ()

    def missing(self) -> str:
        return ""

    def connect(self, rig: Rig, stack: ExitStack) -> Callable[[], dict[str, Any]]:
        daemons = [Ipsecd(rig, site, peer, program=self.program) for site, peer in ((rig.b, rig.a), (rig.a, rig.b))]
        for daemon in daemons:
            daemon.change(lambda c: c["log"].update(level="info"))
            daemon.change(lambda c: c["gateway"].update(engine=self.engine))
            next(iter(daemon.config["peers"].values()))["children"]["office"]["esp"] = {
                "proposals": ["aes256gcm16-x25519"]}
            daemon.write()
            daemon.start()
            stack.callback(daemon.stop)
        daemons[-1].wait_up()
        return lambda: {"loop_lag_ms": max(d.status()["gateway"]["loop_lag"]["p99_ms"] for d in daemons)}


class IpsecdNative(IpsecdReference):
    """ipsecd with its engine in Rust."""

    name = "ipsecd (native engine)"
    engine = "native"

    def missing(self) -> str:
        return native_missing()


class IpsecdNoCrypto(IpsecdNative):
    """The same without its ciphers, which no configuration can have: what the path by itself would let through."""

    name = "ipsecd (native, no crypto)"
    program = no_crypto.PROGRAM

    def missing(self) -> str:
        return native_missing() or no_crypto.NO_CRYPTO.build()


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "plain": Plain, "strongswan": StrongSwan, "openvpn": OpenVpn, "wireguard": WireGuard, "ipsecd": IpsecdReference,
    "ipsecd-native": IpsecdNative, "no-crypto": IpsecdNoCrypto}


def wait_for_path(rig: Rig) -> None:
    """Wait until the hosts reach each other."""
    if not eventually(lambda: answers(rig.a.host, rig.b.host4), within_s=15):
        logs = "\n".join(path.read_text()[-2000:] for path in rig.directory.rglob("*log"))
        raise AssertionError(f"no path between the LANs:\n{logs}")


def _self_signed(base: Path) -> str:
    """Write BASE.pem and BASE.key; return the fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, base.name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
                   .not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256()))
    base.with_suffix(".pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with open(os.open(base.with_suffix(".key"), os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                     serialization.NoEncryption()))
    return certificate.fingerprint(hashes.SHA256()).hex(":")


def _built_wireguard() -> str:
    """Build wireguard-go once into the user's cache; return its path, or nothing without Go or network."""
    go = shutil.which("go")
    target = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "ipsecd-bench")
    program = target / "wireguard"
    if go and not program.exists():
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run((go, "install", "golang.zx2c4.com/wireguard@latest"), env={**os.environ, "GOBIN": str(target)},
                       capture_output=True, timeout=300, check=False)
    return str(program) if program.exists() else ""


def _configure_wireguard(control: Path, *, private: X25519PrivateKey, peer: X25519PrivateKey, endpoint: str,
                         allowed: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(control))
        sock.sendall(f"set=1\nprivate_key={private.private_bytes_raw().hex()}\nlisten_port=51820\n"
                     f"public_key={peer.public_key().public_bytes_raw().hex()}\nendpoint={endpoint}\n"
                     f"allowed_ip={allowed}\n\n".encode())
        answer = sock.recv(4096).decode()
    if "errno=0" not in answer:
        raise AssertionError(f"wireguard-go refused its configuration: {answer}")
