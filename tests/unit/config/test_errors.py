"""Every class of error, with the exact line that the operator reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.config.support import changed, compiled, errors_of

IDENTITY = "identity: branch-a.example.net"
ADDRESS = "address: [198.51.100.2]"
LOCAL = 'local: [10.1.0.0/16, "2001:db8:1::/48"]'
REMOTE = 'remote: [10.2.0.0/16, "2001:db8:2::/48"]'
OFFICE = "peers.hq.children.office"


@pytest.mark.parametrize(("old", "new", "problem"), [
    (IDENTITY, "identity: no", '2:13: gateway.identity: found \'no\'; expected an identity; write "no" in quotes'),
    (IDENTITY, "identity:", "2:12: gateway.identity: found nothing; expected an identity"),
    (IDENTITY, "identitty: x", "2:3: gateway.identitty: found an unknown key; expected one of identity, interface"),
    (IDENTITY, "interface: toolonginterface1", "2:14: gateway.interface: found 'toolonginterface1'; expected the name"),
    (IDENTITY, "listen: [0.0.0.0]", "2:12: gateway.listen[0]: found '0.0.0.0'; expected a unicast IP address"),
    (IDENTITY, "priority: 012", "2:13: gateway.priority: found '012'; expected a rule priority between 1 and 32700; "
                                "write it without leading zeros"),
    (IDENTITY, "priority: 1_0", "write it without underscores"),
    (IDENTITY, "priority: 22:22", "a colon makes no number (YAML 1.1 reads 22:22 in base 60)"),
    (IDENTITY, "priority: \u0663", "expected a rule priority between 1 and 32700"),
    (IDENTITY, "tables: {wide: 254}", "2:3: gateway.tables: found table 254, which is the kernel's; expected another"),
    (IDENTITY, "mark: {own: 0x10}", "2:3: gateway.mark: found own 0x00000010"),
    (ADDRESS, "address: hq..example.net", "5:14: peers.hq.address: found 'hq..example.net'; expected an IP address"),
    (ADDRESS, "address: 22:22", "found '22:22'; expected a unicast IP address"),
    (ADDRESS, "address: [fe80::1%eth0]", "without scope"),
    (ADDRESS, "legacy: yes", "5:13: peers.hq.legacy: found 'yes'; expected true or false; write true"),
    (ADDRESS, "ike: {lifetime: 25h}", "5:21: peers.hq.ike.lifetime: found '25h'; expected a time"),
    (ADDRESS, "ike: {dpd: 0s}", "between 0.1s and 1h"),
    (ADDRESS, "ike: {proposals: [aes256gcm16-prfsha384-modp1024]}", "is weak; it needs `legacy: true` on this peer"),
    (ADDRESS, "ike: {proposals: []}", "expected at least 1 item"),
    ("auth: {psk_file: KEYFILE}", "auth: certificate", "7:11: peers.hq.auth: found no certificate; expected "
     "gateway.certificate and gateway.private_key, or both here"),
    ("auth: {psk_file: KEYFILE}", "auth: certificate", "7:11: peers.hq.auth: found no authorities; expected "),
    ("auth: {psk_file: KEYFILE}", "auth: {psk_file: KEYFILE, issuer: \"dn:CN=x\"}", "7:5: peers.hq.auth: found "
     "psk_file and issuer; expected `local` and `remote` to say which of them proves which side"),
    ("auth: {psk_file: KEYFILE}", "auth: {psk_file: KEYFILE, crls: [/x], local: psk, remote: psk}", "peers.hq.auth."
     "crls: found this key, but local is psk and remote is psk; expected no such key"),
    ("auth: {psk_file: KEYFILE}", "auth: {private_key: /x}", "peers.hq.auth: found private_key; expected "
     "`certificate`"),
    ("auth: {psk_file: KEYFILE}", "auth: {authorities: [/nonexistent/ca.pem]}", "peers.hq.auth.authorities[0]: found a "
     "file that cannot be read (No such file or directory); expected a readable file"),
    ("auth: {psk_file: KEYFILE}", "auth: {issuer: hq.example.net, authorities: [/nonexistent]}", "peers.hq.auth."
     "issuer: found a value that is not shown; expected \"dn:C=..., CN=...\""),
    ("auth: {psk_file: KEYFILE}", "auth: {}", "7:5: peers.hq.auth: found no key; expected exactly one of psk_file"),
    ("auth: {psk_file: KEYFILE}", "auth: {psk_credential: hq.psk}", "found no $CREDENTIALS_DIRECTORY"),
    ("    auth: {psk_file: KEYFILE}\n", "", "4:3: peers.hq.auth: found nothing; expected this key, which is required"),
    ("  hq:", "  yes:", "4:3: peers.yes: found this name; expected another name"),
    ("      office:", "      a/b:", "9:7: peers.hq.children.a/b: found this name; expected a name of at most 64"),
    (LOCAL, "local: [10.1.2.0/16]", f"10:17: {OFFICE}.local[0]: found '10.1.2.0/16'; expected a prefix such as "
     "10.1.0.0/16, an address, or a range such as 10.0.0.1-10.0.0.9; the prefix without host bits is 10.1.0.0/16"),
    (LOCAL, 'local: ["::ffff:10.0.0.0/104"]', "packets never carry IPv4-mapped ones"),
    (LOCAL, "local: []", f"10:9: {OFFICE}.local: found a list; expected at least 1 item"),
    (f"        {LOCAL}\n", "", f"9:7: {OFFICE}.local: found nothing; expected this key, which is required"),
    (LOCAL, "local: [10.1.0.0/16]", f"9:7: {OFFICE}: found sides that do not pair: remote 2001:db8:2::/48 has no"),
    (LOCAL, LOCAL + "\n        mode: transport", f"10:9: {OFFICE}.local: found 10.1.0.0/16, 2001:db8:1::/48 with mode: "
     "transport; expected one address, this host's own, or mode: tunnel"),
    (LOCAL, LOCAL + "\n        lifetime: 9h", f"11:19: {OFFICE}.lifetime: found '9h'; expected a time"),
    (LOCAL, LOCAL + "\n        start: alway", "one of always, on-demand, listen; did you mean always?"),
    (LOCAL, LOCAL + "\n        esp: {replay_window: 63}", f"11:30: {OFFICE}.esp.replay_window: found '63'"),
    (LOCAL, LOCAL + "\n        esp: {replay_window: 0, esn: yes}", "found esn: yes with replay_window: 0"),
    (LOCAL, LOCAL + "\n        esp: {pfs: required, proposals: aes128gcm16}", "expected a key exchange such as x25519"),
    (LOCAL, LOCAL + "\n        ah: {}\n        esp: {}", f"11:9: {OFFICE}.ah: found ah beside esp; expected one"),
    (LOCAL, LOCAL + "\n        mode: transport\n        tfc: {pad_to: 512}", "found padding with mode: transport; "),
    (LOCAL, LOCAL + "\n        ah: {proposals: aes256gcm16}", "AH encrypts nothing and takes no cipher"),
    (LOCAL, LOCAL + "\n        ah: {proposals: x25519}", "no integrity algorithm; add for example sha256 or"),
    (LOCAL, LOCAL + "\n        esp: {proposals: aes256-aes256gmac}", "GMAC belongs in an AH proposal"),
    (LOCAL, LOCAL + "\n        ah: {proposals: sha1}", "it needs `legacy: true` on this peer"),
    (LOCAL, LOCAL + "\n        ah: {proposals: sha256, pfs: required}", "expected a key exchange such as x25519"),
    (LOCAL, LOCAL + "\n        esp: {lifetime_bytes: 4XiB}", "found '4XiB'; expected a size such as 4GiB"),
])
def test_error_is_found_at_its_place(old: str, new: str, problem: str, tmp_path: Path) -> None:
    found = errors_of(tmp_path, changed((old, new)))
    assert any(problem in line for line in found), found
    assert all(line.startswith("ipsecd.yaml:") for line in found)


@pytest.mark.parametrize(("selector", "problem"), [
    ("{prefix: 10.2.0.0/16, port: 22}", "found `port` without a protocol that has ports"),
    ("{prefix: 10.2.0.0/16, protocol: tcp, port: 9-3}", "expected a port between 0 and 65535, a range"),
    ("{prefix: 10.2.0.0/16, protocol: tcp, icmp_type: 8}", "without protocol: icmp or ipv6-icmp"),
    ("{prefix: 10.2.0.0/16, protocol: icmp, icmp_code: 8}", "found icmp_code without icmp_type"),
    ("{prefix: 10.2.0.0/16, range: 10.0.0.1-10.0.0.2}", "expected exactly one of prefix and range"),
    ("{protocol: tcp}", "expected exactly one of prefix and range"),
    ("{prefix: 10.2.0.0/16, protocol: tcpp}", "remote[0].protocol: found 'tcpp'"),
    ("{prefix: 10.2.0.0/16, prot: tcp}", "remote[0].prot: found an unknown key"),
    ("10.0.0.9-10.0.0.1", "expected a prefix"),
])
def test_selector_error_names_its_item(selector: str, problem: str, tmp_path: Path) -> None:
    found = errors_of(tmp_path, changed((LOCAL, "local: [10.1.0.0/16]"), (REMOTE, f"remote: [{selector}]")))
    assert any(problem in line and line.startswith("ipsecd.yaml:11:") for line in found), found


def test_all_errors_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = changed((IDENTITY, "identity: bad name"), ("psk_file: KEYFILE", "psk_file: /nonexistent"),
                   (LOCAL, LOCAL + "\n        start: x\n        start: y")) + "log: {level: loud}\npolicies: [hello]\n"
    found = errors_of(tmp_path, text)
    assert [line.split(": ")[0] for line in found] == [
        f"ipsecd.yaml:{place}" for place in ("2:13", "7:22", "11:16", "12:9", "14:14", "15:12")]


def test_two_enabled_peers_of_one_identity_are_refused(tmp_path: Path) -> None:
    second = """\
  copy:
    identity: HQ.example.net
    auth: {psk_file: KEYFILE}
    children: {c: {local: [10.5.0.0/16], remote: [10.6.0.0/16]}}
"""
    found = errors_of(tmp_path, changed() + second)
    assert found == ["ipsecd.yaml:13:15: peers.copy.identity: found the identity of peer hq; expected one that no "
                     "other enabled peer has"]
    assert compiled(tmp_path, changed() + second + "    enabled: false\n").policy.peers[1].enabled is False


def test_ah_needs_an_address_and_no_demand_for_udp(tmp_path: Path) -> None:
    ah = (LOCAL, LOCAL + "\n        ah: {}")
    found = errors_of(tmp_path, changed((f"    {ADDRESS}\n", ""), ah))
    assert "found ah in a peer without address; expected one" in found[0]
    found = errors_of(tmp_path, changed((f"    {ADDRESS}\n", f"    {ADDRESS}\n    encapsulation: udp\n"), ah))
    assert "found udp beside a child with ah; expected auto or raw" in found[0]


def test_a_peer_without_address_needs_an_identity_and_cannot_call(tmp_path: Path) -> None:
    found = errors_of(tmp_path, changed((f"    {ADDRESS}\n", ""), ("    identity: hq.example.net\n", "")))
    assert "found neither address nor identity" in found[0]
    found = errors_of(tmp_path, changed((f"    {ADDRESS}\n", ""), (LOCAL, LOCAL + "\n        start: always")))
    assert "expected listen, because this peer has no address to call" in found[0]
    assert compiled(tmp_path, changed((f"    {ADDRESS}\n", ""))).policy.peers[0].children[0].start == "listen"
