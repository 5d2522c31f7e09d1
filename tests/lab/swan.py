"""strongSwan on kernel-libipsec as the far side, from files of its own.

    peer = Swan(rig, rig.b, rig.a)
    peer.start()
    peer.initiate()                      # or wait for the other side
    peer.sas()                           # what swanctl --list-sas says

It runs in the gateway's namespace only; settings, connections, control socket and log are files of the rig.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterable

from tests.lab.logged import Logged
from tests.lab.rig import Rig, Site
from tests.support.netns import CommandError, eventually

PSK = "0sc3Ryb25nc3dhbi1hbmQtaXBzZWNkLXNoYXJlLXRoaXMtb25l"
PPK_ID, PPK = "lab-ppk", "0sQSBwb3N0LXF1YW50dW0gcHJlLXNoYXJlZCBrZXkgb2YgdGhlIGxhYiE="
LEFT_ID, RIGHT_ID = "branch-a.example.net", "hq.example.net"

# kernel-libipsec stands first: the first IPsec backend wins, and netlink is still needed for routes. Nine threads are
# always busy; with fewer than about twelve in all the control socket never answers. The marks keep IKE and ESP out of
# routing table 220, also where the peer's own address lies inside a remote selector.
SETTINGS = """\
charon-systemd {{
  load = random nonce aesni openssl aes sha1 sha2 hmac kdf gcm pem pkcs1 pkcs8 x509 pubkey constraints counters \
kernel-libipsec kernel-netlink socket-default vici updown
  threads = 16
  retransmit_tries = 2
  retransmit_timeout = 1.0
  {extra}
  plugins {{
    vici {{
      socket = unix://{run}/vici
    }}
    kernel-netlink {{
      fwmark = !0x42
    }}
    socket-default {{
      fwmark = 0x42
    }}
    kernel-libipsec {{
      allow_peer_ts = yes
    }}
  }}
  filelog {{
    lab {{
      path = {run}/log
      default = 1
      ike = 2
      flush_line = yes
    }}
  }}
}}
swanctl {{
  socket = unix://{run}/vici
}}
"""

CONNECTION = """\
connections {{
  lab {{
    version = {version}
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {ike}
    {ike_extra}
    local {{
      auth = psk
      id = {local_id}
    }}
    remote {{
      auth = psk
      id = {remote_id}
    }}
    children {{
      {child} {{
        local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = {esp}
        {child_extra}
      }}
    }}
  }}
}}
secrets {{
  ike-lab {{
    id-1 = {local_id}
    id-2 = {remote_id}
    secret = {psk}
  }}
  ppk-lab {{
    id = {ppk_id}
    secret = {ppk}
  }}
}}
"""


class Swan(Logged):
    """One charon on one gateway. Each argument named `..._extra` holds more lines of that section."""

    def __init__(self, rig: Rig, site: Site, peer: Site, *, ike: str = "aes256gcm16-prfsha384-x25519",
                 esp: str = "aes256gcm16-x25519", psk: str = PSK, child: str = "office", remote: str = "",
                 local_ts: str = "", remote_ts: str = "", ike_extra: str = "", child_extra: str = "",
                 extra: str = "", family: int = 4) -> None:
        self._gateway = site.gateway
        self._run = rig.directory / f"swan-{site.name}"
        self._child = child
        self._process: subprocess.Popen[bytes] | None = None
        self.log_file = self._run / "log"
        (self._run / "swanctl").mkdir(parents=True)
        # Copies, because AppArmor profiles name the installed paths and allow those only their usual files.
        self._charon, self._swanctl = (shutil.copy(f"/usr/sbin/{name}", self._run / f"{name}-lab")
                                       for name in ("charon-systemd", "swanctl"))
        (self._run / "strongswan.conf").write_text(SETTINGS.format(run=self._run, extra=extra))
        ids = (LEFT_ID, RIGHT_ID) if site.name == "a" else (RIGHT_ID, LEFT_ID)
        self._connection = {
            "local": site.wan(family), "remote": remote or peer.wan(family), "ike": ike, "esp": esp, "psk": psk,
            "local_id": ids[0], "remote_id": ids[1], "child": child, "ike_extra": ike_extra, "child_extra": child_extra,
            "ppk_id": PPK_ID, "ppk": PPK,
            "local_ts": local_ts or f"{site.prefix4},{site.prefix6}",
            "remote_ts": remote_ts or f"{peer.prefix4},{peer.prefix6}", "version": "2"}
        self.configure()

    def configure(self, **changes: str) -> None:
        """Write the connection file with these values changed; `load` makes a running daemon take it."""
        self._connection |= changes
        (self._run / "swanctl" / "swanctl.conf").write_text(CONNECTION.format(**self._connection))

    def start(self) -> None:
        """Start the daemon and load the connection."""
        (self._run / "vici").unlink(missing_ok=True)     # of one that ended: nobody listens there
        self._process = self._gateway.popen("env", f"STRONGSWAN_CONF={self._run}/strongswan.conf", str(self._charon),
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not eventually(lambda: (self._run / "vici").is_socket(), within_s=10):
            raise AssertionError(f"strongSwan did not start:\n{self.log()}")
        self.load()

    def load(self) -> None:
        """Take connections and secrets from the files."""
        said = self.swanctl("--load-all", "--noprompt")
        if "discarded" in said or "failed" in said.replace("failed 0", "").replace("0 failed", ""):
            raise AssertionError(said)

    def initiate(self, *, within_s: int = 10) -> None:
        """Bring the child up from this side; raise CommandError with the log of the attempt."""
        self.swanctl("--initiate", "--child", self._child, "--timeout", str(within_s))

    def sas(self) -> str:
        """Return the established SAs, in swanctl's words."""
        return self.swanctl("--list-sas")

    def holds(self, ike: Iterable[str], pairs: Iterable[tuple[str, str]]) -> bool:
        """Return whether these IKE SAs and pairs, as ipsecd names them, and no others are in use."""
        sas = self.sas()
        theirs = re.findall(r"INSTALLED.*?\n\s+in +(\w+).*?\n\s+out +(\w+)", sas, re.DOTALL)
        established = re.findall(r"ESTABLISHED, IKEv2, (\w+)_i\*? (\w+)_r", sas)
        return (sorted(theirs) == sorted((out, into) for into, out in pairs)
                and sorted(":".join(spi) for spi in established) == sorted(ike))

    def end_all(self) -> None:
        """Forget whatever is left of the connection, without a word to the peer; fine where nothing is."""
        if self.sas().strip():
            self.swanctl("--terminate", "--ike", "lab", "--force", check=False)
            assert eventually(lambda: not self.sas().strip(), within_s=10), self.sas()

    def installed(self) -> int:
        """Return how many child SAs are in use."""
        return self.sas().count("INSTALLED")

    def stop(self) -> None:
        """End it in order: strongSwan deletes its SAs, routes and rules."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does, then take the rule away that would keep the next start from making its own."""
        self._end(signal.SIGKILL)
        self._gateway.ip("rule del priority 220", "-6 rule del priority 220", check=False)

    def revive(self) -> None:
        """Start it unless it runs: for a world that outlives a failed test."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def swanctl(self, *arguments: str, check: bool = True) -> str:
        """Run swanctl; a daemon that hangs fails the call after 20 s, unless `check` is off."""
        try:
            return self._gateway.run("timeout", "20", "env", f"STRONGSWAN_CONF={self._run}/strongswan.conf",
                                     f"SWANCTL_DIR={self._run}/swanctl", str(self._swanctl), *arguments, check=check)
        except CommandError as error:
            raise CommandError(f"{error}\n{self.log()}") from None

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(timeout=15)
