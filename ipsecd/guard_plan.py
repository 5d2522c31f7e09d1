"""The guard: one nft table that holds the ordered SPD (RFC 4301 4.4.1) in both directions, without the daemon.

A protected packet leaves through the tunnel device or not at all; one that an entry with an interface selector
protects, only from there and through the device of that interface.  Chains, in the order a packet meets them:

arriving   prerouting after DNAT, before the routing decision: own IKE and ESP get the own mark, so that strict
           rp_filter passes; what policy protects and came in clear is dropped; bypass is marked both ways
onward     the outbound half of `arriving`, and all there is for decrypted packets
sending    output, before the mark can reroute: bypass and discard of the gateway's own packets
clamp      forward: TCP MSS to and from the tunnel follows the route's MTU
leaving    postrouting before SNAT could hide the protected source: the last word
entered    the ordered SPD again, for what came by an interface that entries select by and goes into the common device
defragment ports need whole packets, and nft does not reassemble unless something asks for it

The text carries "%" where the generation stands.  Two generations in one table both hold: a drop in either wins, which
is how a reload never opens a gap.  `leaving` is also kept in a second table, owned by the running daemon, that
`nft flush ruleset` of another program does not remove.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ipsecd.guard_sets import GENERATION, Run, Sets, compile_runs, element
from ipsecd.intervals import Range, prefixes
from ipsecd.policy import Action, Policy
from ipsecd.protected import Host, Territory, nameable, outside_interfaces

# Named counters, and what each one says in status.
CLEAR_OUT = "clear_out"                             # policy protects it; it would have left in clear
CLEAR_IN = "clear_in"                               # policy protects it; it came in clear
NOT_INSIDE = "not_inside"                           # for a local selector, leaving by an interface that is not inside
DISCARD = "discard"                                 # a discard entry
DEFAULT = "default_discard"                         # policies_default: discard
REDIRECT = "icmp_redirect"                          # an ICMP redirect into the tunnel
COUNTERS = (CLEAR_OUT, CLEAR_IN, NOT_INSIDE, DISCARD, DEFAULT, REDIRECT)

HELD_SUFFIX = "_held"                               # the daemon's own copy of `leaving`
_IP = {4: "ip", 6: "ip6"}
_NEIGHBOUR = ("icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }"
              " ip6 hoplimit 255 accept")           # RFC 4861 6.1, 7.1
_ERRORS = {4: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
           6: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"}
# Either tells a packet of the gateway's own in postrouting.  The first does not see what the kernel made for a device
# (some ICMP), the second not what is sent from an IPv6 address whose route is just being made or removed.
_OWN_PACKET = ("meta iif 0", "fib saddr type local")
# What protected packets and IKE arrive in: RFC 7296 2.23, RFC 4303 for ESP without UDP, and RFC 4302, which nft
# takes for an extension header in IPv6; in transport mode another one can be ahead of it, whose first byte says so.
_TUNNELLED = ("udp dport { 500, 4500 }", "meta l4proto esp", "ip protocol ah", "ip6 nexthdr ah",
              "ip6 nexthdr { 0, 43, 60 } @nh,320,8 51")
_NUMBERED = re.compile(r"_g(\d+)$")
_TCP_HEADERS = {4: 40, 6: 60}                       # IP and TCP without options (RFC 6691 2)


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """One generation of the guard as nft text; equal plans need no reload."""

    table: str
    sets: str
    chains: str
    last_word: str                                  # the chains of `leaving` alone


@dataclass(frozen=True, slots=True)
class Count:
    """A counter's packets and bytes."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Clamp:
    """Remote ranges of one family that a device reaches with one MTU, in bytes of the inner packet."""

    device: str
    version: int
    mtu: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class _Entrance:
    """An ingress interface that protect entries select by; `tag` ends the names of its sets and chains."""

    name: str
    device: str
    tag: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Names of the chains and sets that a table has."""

    chains: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()

    @property
    def next_generation(self) -> int:
        """The first number that no name here ends with."""
        numbers = [int(found[1]) for name in (*self.chains, *self.sets) if (found := _NUMBERED.search(name))]
        return max(numbers, default=-1) + 1


def guard_text(plans: Sequence[GuardPlan], carried: Mapping[str, Count] | None = None) -> str:
    """Return nft text that replaces the table by one or two generations at once, whatever it holds.

    `carried` are counter values to go on from.  Only where `guard_texts` is refused: see there.
    """
    table = plans[0].table
    body = _generations([f"{p.sets}\n{p.chains}" for p in plans], 0)
    return removal_text(table) + f"table inet {table} {{\n{_counters(carried or {})}\n{body}\n}}\n"


def guard_texts(plans: Sequence[GuardPlan], standing: Standing) -> tuple[str, str]:
    """Return two transactions that put one or two generations in the place of what stands.

    The kernel lets the rules of a transaction act a moment before the intervals of its sets answer.  So the sets come
    first, beside what stands, and the chains that ask them take the place of the old ones when they are complete.
    """
    return _texts(plans[0].table, "", [(p.sets, p.chains) for p in plans], standing)


def held_text(plan: GuardPlan) -> str:
    """Return nft text of the owned table with `leaving` alone; the netlink socket that loads it must stay open."""
    table = plan.table + HELD_SUFFIX
    body = _generations([f"{plan.sets}\n{plan.last_word}"], 0)
    # A transaction that names an owned table without this flag is refused (EOPNOTSUPP), so `removal_text` would not do.
    removal = f"table inet {table} {{\nflags owner\n}}\ndelete table inet {table}\n"
    return removal + f"table inet {table} {{\nflags owner\n{_counters({})}\n{body}\n}}\n"


def held_texts(plan: GuardPlan, standing: Standing) -> tuple[str, str]:
    """Return the two transactions of `guard_texts` for the owned table."""
    return _texts(plan.table + HELD_SUFFIX, "flags owner\n", [(plan.sets, plan.last_word)], standing)


def _texts(table: str, flags: str, generations: Sequence[tuple[str, str]], standing: Standing) -> tuple[str, str]:
    first = standing.next_generation
    sets = _generations([sets for sets, _ in generations], first)
    chains = _generations([chains for _, chains in generations], first)
    # Emptied before any goes, because they jump to each other; sets last, because rules name them.
    gone = [f"flush chain inet {table} {name}" for name in standing.chains]
    gone += [f"delete chain inet {table} {name}" for name in standing.chains]
    gone += [f"delete set inet {table} {name}" for name in standing.sets]
    return (f"table inet {table} {{\n{flags}{_counters({})}\n{sets}\n}}\n",
            "\n".join([f"table inet {table} {{\n{flags}{chains}\n}}", *gone, ""]))


def removal_text(table: str) -> str:
    """Return nft text that removes the guard, also where there is none."""
    return f"table inet {table} {{\n}}\ndelete table inet {table}\n"


def compile_guard(policy: Policy, host: Host, territories: Sequence[Territory],
                  clamps: Sequence[Clamp]) -> GuardPlan:
    """Return the guard of `policy` over territories of both families and all interfaces."""
    sets = Sets()
    runs = compile_runs(policy, sets)
    entrances = {name: _Entrance(name, policy.domain.device_for(name), f"_i{number}")
                 for number, name in enumerate(policy.protected_interfaces)}
    _territory_sets(territories, entrances, sets)
    outside = outside_interfaces(policy, host)
    inside = nameable([*(n for t in territories if t.interface is None for n, _ in t.inside), *entrances])
    sets.add("inside_if", "ifname", [f'"{n}"' for n in inside], interval=False)
    sets.add("outside_if", "ifname", [f'"{n}"' for n in outside], interval=False)
    compiler = _Compiler(policy, runs, entrances)
    last_word = {**compiler.drops(), "leaving": compiler.leaving()}
    chains = {**last_word, "mark_bypass": compiler.mark_bypass(), "onward": compiler.onward(),
              "arriving": compiler.arriving(), "sending": compiler.sending(), "clamp": _clamp(clamps, sets)}
    if policy.default_action is Action.DISCARD or any(r.shape in "it" for r in runs):
        # Never reached: the expression alone turns on reassembly, without connection tracking.
        chains["defragment"] = ["meta l4proto udp tproxy to :1"]
    return GuardPlan(policy.domain.nft_table, sets.text(), _chains(chains), _chains(last_word))


def _territory_sets(territories: Sequence[Territory], entrances: Mapping[str, _Entrance], sets: Sets) -> None:
    for ground in territories:
        version, kind = ground.version, f"ipv{ground.version}_addr"
        tag = entrances[ground.interface].tag if ground.interface else ""
        named = [("home", ground.home), ("routed", ground.routed)]
        if not ground.interface:
            named += [("local", ground.local), ("wide", ground.wide), ("wide_from", ground.wide_from)]
        for name, found in named:
            sets.add(f"{name}{version}{tag}", kind, prefixes(version, found))
        sets.add(f"inside{version}{tag}", f"ifname . {kind}",
                 [f'"{name}" . {element(version, (span,))}' for name, span in ground.inside])


class _Compiler:
    """Chains as lists of rules."""

    def __init__(self, policy: Policy, runs: list[Run], entrances: Mapping[str, _Entrance]) -> None:
        self._runs = runs
        self._entrances = entrances
        self._domain = d = policy.domain
        self._devices = _names(d.device, *(e.device for e in entrances.values()))
        self._discards = policy.default_action is Action.DISCARD
        self._own = f"meta mark set meta mark & {d.mask ^ 0xffffffff:#010x} | {d.own_mark:#x} accept"
        self._is_own = f"meta mark & {d.mask:#x} == {d.own_mark:#x} accept"

    def drops(self) -> dict[str, list[str]]:
        """Return the chains where packets end; the exemptions cost nothing to packets that policy does not protect."""
        chains = {"discarded": [_drop(DISCARD)], "default_discarded": [_NEIGHBOUR, _drop(DEFAULT)]}
        for t in ("", *(e.tag for e in self._entrances.values())):
            out, arrived = [_NEIGHBOUR], [_NEIGHBOUR]
            for v, ip in _IP.items():
                pair = f"{ip} saddr @home{v}{t}% {ip} daddr @home{v}{t}% accept"
                out.append(pair)
                arrived.append(f"iifname . {ip} saddr @inside{v}{t}% {pair}")
            out += ["oifname @inside_if% ip daddr { 224.0.0.0/4, 255.255.255.255 } accept",
                    "oifname @inside_if% ip6 daddr { ff00::/8, fe80::/10 } accept"]
            arrived.append("iifname @inside_if% ip6 saddr fe80::/10 accept")
            chains |= {f"clear_in{t}": [*arrived, _drop(CLEAR_IN)], f"clear_out{t}": [*out, _drop(CLEAR_OUT)]}
        if self._entrances:
            chains["entered"] = list(self._match("out", protect="accept", bypass="accept", entered="clear_out"))
        return chains

    def mark_bypass(self) -> list[str]:
        """Return the chain that lets a packet past our tables."""
        d = self._domain
        return [f"meta mark set meta mark & {d.mask ^ 0xffffffff:#010x} | {d.bypass_mark:#x} accept"]

    def arriving(self) -> list[str]:
        rules = ["type filter hook prerouting priority dstnat + 10", 'iifname "lo" accept',
                 *(f"{tunnelled} fib daddr type local {self._own}" for tunnelled in _TUNNELLED),
                 f"iifname {self._devices} goto onward%",
                 # From the protected side a packet is outbound only: a server's source port is no remote port.
                 "iifname @inside_if% iifname != @outside_if% goto onward%",
                 *self._match("in", protect="goto clear_in%", bypass="goto mark_bypass%", entered="clear_in")]
        if self._discards:
            return [*rules, "iifname @outside_if% goto default_discarded%", "goto onward%"]
        return [*rules, *self._unmatched("saddr", "daddr"), "goto onward%"]

    def onward(self) -> list[str]:
        matched = list(self._match("out", protect="accept", bypass="goto mark_bypass%"))
        if self._discards:
            return matched
        # A mark on decrypted packets would have strict rp_filter look for their source in main.
        return [*matched, f"iifname {self._devices} accept",
                *(f"iifname {_names(e.name)} {ip} daddr @routed{v}{e.tag}% goto mark_bypass%"
                  for e in self._entrances.values() for v, ip in _IP.items()),
                *self._unmatched("daddr", "saddr")]

    def sending(self) -> list[str]:
        rules = ["type route hook output priority -90", 'oifname "lo" accept', self._is_own,
                 f"oifname {self._devices} icmp type redirect {_drop(REDIRECT)}",
                 *self._match("out", protect="accept", bypass="goto mark_bypass%")]
        if self._discards:
            return rules
        # With a source of ours, what no entry names is not for the tunnel; with another source it must not get out.
        return [*rules, *(f"{ip} saddr @local{v}% {ip} daddr @routed{v}% goto mark_bypass%" for v, ip in _IP.items()),
                *self._wide("daddr", "saddr")]

    def leaving(self) -> list[str]:
        entrances = self._entrances.values()
        rules = ["type filter hook postrouting priority srcnat - 10"]
        if entrances:
            rules += [f"oifname {_names(e.device)} iifname {_names(e.name)} accept" for e in entrances]
            rules += [f"oifname {_names(*(e.device for e in entrances))} {_drop(CLEAR_OUT)}",
                      f"oifname {_names(self._domain.device)} iifname {_names(*self._entrances)} goto entered%"]
        rules += [f"oifname {_names('lo', self._domain.device)} accept", self._is_own]
        rules += [f"iifname {_names(e.device)} oifname . {ip} daddr != @inside{v}{e.tag}% {_drop(NOT_INSIDE)}"
                  for e in entrances for v, ip in _IP.items()]
        rules += [f"{ip} daddr @local{v}% oifname . {ip} daddr != @inside{v}% {_drop(NOT_INSIDE)}"
                  for v, ip in _IP.items()]
        rules += self._match("out", protect="goto clear_out%", bypass="accept", entered="clear_out")
        rules += [f"{ip} daddr @routed{v}% {ip} daddr != @home{v}% {ip} saddr != @local{v}% {ours}"
                  " goto clear_out%" for v, ip in _IP.items() for ours in _OWN_PACKET]
        # The gateway's own packets are not from there; but its complaints quote packets that the tunnel brought.
        rules += [f"{_ERRORS[v]} {ip} daddr @routed{v}{e.tag}% {ours} goto clear_out{e.tag}%"
                  for e in entrances for v, ip in _IP.items() for ours in _OWN_PACKET]
        if self._discards:
            rules.append("oifname @outside_if% goto default_discarded%")
        return rules

    def _unmatched(self, remote: str, local: str) -> list[str]:
        """Return the rules for forwarded packets that a route would catch though no entry names them."""
        return [*(f"{ip} {remote} @routed{v}% goto mark_bypass%" for v, ip in _IP.items()),
                *self._wide(remote, local)]

    @staticmethod
    def _wide(remote: str, local: str) -> list[str]:
        return [f"{ip} {remote} @wide{v}% {ip} {local} @wide_from{v}% goto mark_bypass%" for v, ip in _IP.items()]

    def _match(self, direction: str, *, protect: str, bypass: str, entered: str = "") -> Iterator[str]:
        """Yield the ordered SPD as rules; local and remote change places with the direction.

        `entered` is the chain, less its tag, for what an entry with an interface protects; "" is `protect` again.
        """
        verdicts = {Action.PROTECT: protect, Action.BYPASS: bypass, Action.DISCARD: "goto discarded%"}
        local, remote = ("s", "d") if direction == "out" else ("d", "s")
        for run in self._runs:
            ip = _IP[run.version]
            fields = [f"{ip} {local}addr", f"{ip} {remote}addr"]
            fields = fields[::-1] if run.remote_first else fields
            fields += ["meta l4proto"] if run.shape != "a" else []
            fields += {"i": ["th sport"], "t": [f"th {local}port", f"th {remote}port"]}.get(run.shape, [])
            verdict = verdicts[run.action]
            if run.action is Action.PROTECT and run.interface and entered:
                verdict = f"goto {entered}{self._entrances[run.interface].tag}%"
            yield f"{_ingress(run.interface, direction)}{' . '.join(fields)} @{run.name}{GENERATION} {verdict}"


def _ingress(interface: str | None, direction: str) -> str:
    """Return the match of an entry's ingress interface; answers are known by the interface they are routed to."""
    if interface is None:
        return ""
    return f"{'iifname' if direction == 'out' else 'fib daddr oifname'} {_names(interface)} "


def _names(*interfaces: str) -> str:
    """Return interface names as nft writes one or several; no interface can be called "/", so that never matches."""
    quoted = ", ".join(f'"{name}"' for name in nameable(interfaces)) or '"/"'
    return f"{{ {quoted} }}" if "," in quoted else quoted


def _clamp(clamps: Sequence[Clamp], sets: Sets) -> list[str]:
    """Return the MSS rules, one set for each device, family and MTU; the kernel only ever lowers an MSS."""
    rules = ["type filter hook forward priority mangle"]
    for number, clamp in enumerate(clamps):
        name, version = f"mtu{number}_{clamp.mtu}", clamp.version
        sets.add(name, f"ipv{version}_addr", prefixes(version, clamp.ranges))
        size = f"tcp flags & (syn | rst) == syn tcp option maxseg size set {clamp.mtu - _TCP_HEADERS[version]}"
        for direction, side in (("oifname", "daddr"), ("iifname", "saddr")):
            rules.append(f"{direction} {_names(clamp.device)} {_IP[version]} {side} @{name}% {size}")
    return rules


def _chains(chains: Mapping[str, Iterable[str]]) -> str:
    return "\n".join(f"chain {name}{GENERATION} {{\n    " + "\n    ".join(rules) + "\n}"
                     for name, rules in chains.items())


def _generations(texts: Sequence[str], first: int) -> str:
    return "\n".join(text.replace(GENERATION, f"_g{number}") for number, text in enumerate(texts, first))


def _counters(carried: Mapping[str, Count]) -> str:
    return "\n".join(f"counter {name} {{ packets {carried.get(name, Count()).packets} bytes"
                     f" {carried.get(name, Count()).bytes} }}" for name in COUNTERS)


def _drop(counter: str) -> str:
    return f'counter name "{counter}" drop'
