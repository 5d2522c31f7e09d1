"""Model -> policy: the one door through which a configuration enters the daemon.

`load_policy` reads the file that is to run, `compile_text` a text that is only to be planned, `compile_accepted` the
text that an earlier `load_policy` returned.  All raise `ConfigError` with every problem; nothing else escapes them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from ipsecd.config import checks, model
from ipsecd.config import defaults as d
from ipsecd.config.certificates import CertificateFiles
from ipsecd.config.load import Document, load_into, parse_into
from ipsecd.config.nodes import Location, Mapping, Node, Sequence, find
from ipsecd.config.peers import PeerCompiler, compile_sides, first
from ipsecd.config.places import Places
from ipsecd.config.problems import Problems
from ipsecd.config.secrets import FileSecrets, KnownSecrets, NoSecrets, SecretReader
from ipsecd.config.selectors import ANY_SELECTORS
from ipsecd.config.settings import Settings, state_directory
from ipsecd.config.validate import Validated, validate
from ipsecd.config.validity import Validity, expiry_warnings
from ipsecd.errors import ConfigError
from ipsecd.policy import Action, PeerPolicy, Policy, RoutingDomain, SpdEntry
from ipsecd.selectors import TrafficSelector

_HIDDEN = "(not kept)"              # stands for an inline key in `Loaded.text`
_KERNEL_TABLES = range(253, 256)    # default, main, local


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration ready to run.

    `text` is the whole configuration, conf.d included, as one YAML document that names no key: what the state
    directory keeps, and what `compile_accepted` takes.
    """

    policy: Policy
    settings: Settings
    lasting_warnings: tuple[str, ...]
    validities: tuple[Validity, ...]
    text: str = field(repr=False)
    places: Places = field(repr=False, compare=False)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful at this time of day: certificates end while the daemon runs."""
        return (*self.lasting_warnings, *expiry_warnings(self.validities, time.time()))


def load_policy(path: Path, *, credentials_directory: str | None) -> Loaded:
    """Read and compile the configuration that is to run.

    `credentials_directory` is $CREDENTIALS_DIRECTORY, for `psk_credential`.  Raises `ConfigError`.
    """
    problems = Problems()
    return _compile(load_into(Path(path), problems), FileSecrets(credentials_directory), problems)


def compile_text(text: str, filename: str, *, known_sources: frozenset[str],
                 credentials_directory: str | None) -> Loaded:
    """Compile a text sent by a client, for `ipsecctl plan FILE`; the result is shown and never applied.

    The daemon opens no caller's path: a key's file is read only where the running configuration names it too
    (`known_sources` is its `Settings.secret_sources`); any other key is an empty placeholder and a warning.  conf.d
    does not belong to a text.  Inline keys are accepted, because the mode of the client's file is unknown; the
    reload that follows checks it.  Raises `ConfigError`.
    """
    problems = Problems()
    document = parse_into(text, filename, problems, private=True)
    return _compile(document, KnownSecrets(known_sources, credentials_directory), problems)


def compile_accepted(text: str, filename: str) -> Loaded:
    """Compile `Loaded.text` again without any key, for the guard at boot.  Raises `ConfigError`."""
    problems = Problems()
    return _compile(parse_into(text, filename, problems, private=True), NoSecrets(), problems)


def _compile(document: Document | None, reader: SecretReader, problems: Problems) -> Loaded:
    if document is None:
        raise ConfigError(problems.errors)
    problems.root = document.root
    found = validate(document.root, problems)

    def inline(location: Location) -> bool:
        return find(document.root, location)[1].file in document.private

    certificates = CertificateFiles(found.gateway, reader=reader, problems=problems)
    compiler = PeerCompiler(found.defaults, found.gateway.identity, reader=reader, certificates=certificates,
                            inline=inline, problems=problems)
    compiled = {name: compiler.compile(name, peer) for name, peer in found.peers.items()}
    peers = tuple(peer for peer in compiled.values() if peer is not None)
    policy = Policy(
        listen=tuple(dict.fromkeys(found.gateway.listen or ())), peers=peers,
        entries=(*_policy_entries(found, problems), *_child_entries(peers)),
        default_action=Action(found.default_action or Action.BYPASS), domain=_domain(found.gateway, problems),
        inside=tuple(dict.fromkeys(found.gateway.inside or ())),
        exclude=tuple(dict.fromkeys(found.gateway.exclude or ())),
        cookie_threshold=first(found.gateway.cookie_threshold, default=d.COOKIE_THRESHOLD),
        source_limit=first(found.gateway.source_limit, default=d.SOURCE_LIMIT))
    checks.check_policy(policy, problems)
    checks.check_gateway(found.gateway, policy, problems)
    problems.raise_if_any()
    settings = _settings(found, frozenset(compiler.secret_sources | certificates.sources))
    if isinstance(reader, KnownSecrets):
        checks.warn_unread_keys(policy, problems)
    return Loaded(policy, settings, problems.warnings, certificates.validities, _canonical(document.root),
                  Places(document.root))


def _policy_entries(found: Validated, problems: Problems) -> list[SpdEntry]:
    entries: list[SpdEntry] = []
    for index, keys in found.policies.items():
        at: Location = ("policies", index)
        if keys.name in {e.name for e in entries}:
            problems.expected((*at, "name"), "a name that no other entry has")
        sides = _policy_sides(at, keys, problems)
        if sides is not None:
            entries.append(SpdEntry(keys.name, Action(keys.action), sides[0], sides[1], interface=keys.interface))
    return entries


Sides = tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]


def _policy_sides(at: Location, keys: model.PolicyKeys, problems: Problems) -> Sides | None:
    """Return the selectors of an entry; a side that is not written is any address of the other's families."""
    return compile_sides(at, keys.local or _any_of(keys.remote), keys.remote or _any_of(keys.local), problems)


def _any_of(other: list[model.SelectorKeys] | None) -> list[model.SelectorKeys]:
    written = [form.prefix or form.range for form in other or ()]
    families = {s.version for s in written if s is not None} or {4, 6}
    return [model.SelectorKeys.model_construct(prefix=s) for s in ANY_SELECTORS if s.version in families]


def _child_entries(peers: tuple[PeerPolicy, ...]) -> list[SpdEntry]:
    """Return the protect entries in the order written, those of sleeping peers last.

    A sleeping peer's traffic stays protected, which means dropped, but never in place of a peer that is awake.
    """
    ordered = [p for p in peers if p.enabled] + [p for p in peers if not p.enabled]
    return [SpdEntry(str(c.key), Action.PROTECT, c.local, c.remote, c.key, c.interface)
            for p in ordered for c in p.children]


def _domain(keys: model.GatewayKeys, problems: Problems) -> RoutingDomain:
    base = RoutingDomain()
    marks, tables = keys.mark or model.MarkKeys(), keys.tables or model.TableKeys()
    domain = RoutingDomain(
        device=first(keys.interface, default=base.device),
        protected_table=first(tables.protected, default=base.protected_table),
        wide_table=first(tables.wide, default=base.wide_table), priority=first(keys.priority, default=base.priority),
        own_mark=first(marks.own, default=base.own_mark), bypass_mark=first(marks.bypass, default=base.bypass_mark),
        mask=first(marks.mask, default=base.mask), protocol=first(keys.route_protocol, default=base.protocol),
        nft_table=_nft_table(first(keys.interface, default=base.device)),
        interface_tables=first(tables.interfaces, default=base.interface_tables))
    at: Location = ("gateway", "tables")
    if domain.protected_table == domain.wide_table:
        problems.error(at, f"found table {domain.wide_table} twice; expected two different tables")
    for table in (domain.protected_table, domain.wide_table):
        if table in _KERNEL_TABLES:
            problems.error(at, f"found table {table}, which is the kernel's; expected another")
    own, bypass, mask = domain.own_mark, domain.bypass_mark, domain.mask
    if own == bypass or own & mask != own or bypass & mask != bypass:
        problems.error(("gateway", "mark"), f"found own {own:#010x}, bypass {bypass:#010x}, mask {mask:#010x}; "
                                            "expected two different marks within the mask")
    return domain


def _nft_table(device: str) -> str:
    """Return the nft table of a device: two gateways in one network namespace must not replace each other's guard."""
    base = RoutingDomain()
    if device == base.device:
        return base.nft_table
    return f"{base.nft_table}_{''.join(c if c.isalnum() else '_' for c in device)}"


def _settings(found: Validated, sources: frozenset[str]) -> Settings:
    socket = first(found.control.socket, default=d.CONTROL_SOCKET)
    return Settings(
        control_socket=socket, admins=tuple(found.control.admins or ()),
        state_directory=first(found.gateway.state, default=state_directory(socket)),
        metrics_listen=found.metrics.listen, log_level=first(found.log.level, default="info"),
        log_format=first(found.log.format, default="auto"), engine=first(found.gateway.engine, default="auto"),
        secret_sources=sources)


def _canonical(root: Mapping) -> str:
    """Return the tree as JSON, which is YAML, with every inline key replaced."""
    return json.dumps(_plain(root, ()), indent=1, ensure_ascii=False)


def _plain(node: Node, location: Location) -> object:
    if isinstance(node, Mapping):
        return {key: _plain(item, (*location, key)) for key, item in node.items()}
    if isinstance(node, Sequence):
        return [_plain(item, (*location, i)) for i, item in enumerate(node)]
    hidden = len(location) == 4 and location[0] == "peers" and location[2:] == ("auth", "psk")
    return _HIDDEN if hidden else str(node)
