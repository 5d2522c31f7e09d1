"""A victim with an innocent peer, and Mallory who is logged in at it."""

from __future__ import annotations

from collections.abc import Callable

from ipsecd.ike.consts import ExchangeType, NotifyType
from ipsecd.ike.wire.message import Payload
from ipsecd.ike.wire.notify import NotifyPayload
from ipsecd.reports import ChildRequest
from ipsecd.secret import Secret
from tests.support.exchange import NETS, B, child_policy, esp, fqdn, ike_policy, peer_policy, policy
from tests.support.mallory import Mallory, Payloads, child_payloads
from tests.support.victim import Victim

C = "198.51.100.3"
C_PSK = Secret(b"the key of the innocent peer, thirty-two or more")
CHILD, INFO = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL
OWN, FOREIGN = b"\xc0\0\0\1", b"\xcc\0\0\1"          # SPIs of their first pairs
GROUPS = esp("aes256gcm16-x25519-ecp256-modp2048")


class World:
    """A victim with a hostile peer, b, and an innocent one, c, both up with a child."""

    def __init__(self, *, login: bool = True, **ike: object) -> None:
        b = peer_policy("b", B, own="a.example", other="b.example", ike=ike_policy(**ike), children=tuple(
            child_policy("b", name, *NETS[name], proposals=(GROUPS,)) for name in ("lan", "voice")))
        c = peer_policy("c", C, own="a.example", other="c.example", psk=C_PSK,
                        children=(child_policy("c", "lan", "10.1.0.0/16", "10.77.0.0/16"),))
        self.victim = Victim(policy(b, c), keep_log=True)
        self.innocent = Mallory(self.victim, fqdn("c.example"), C, psk=C_PSK, seed="c")
        self.innocent.login(child=False)
        made = self.innocent.request(CHILD, *child_payloads(spi=0xCC000001, local="10.77.0.0/16"))
        assert made is not None
        (self.innocent_spi,) = self.victim.installed
        self.mallory = Mallory(self.victim)
        if login:
            self.login()

    def login(self) -> None:
        """Have Mallory up, anew where he was thrown out."""
        if "b" not in self.victim.established():
            self.mallory = Mallory(self.victim, seed=self.victim.sent)
            assert self.mallory.login() is not None
            assert "b" in self.victim.established()

    @property
    def handle(self) -> int:
        return next(v.handle for v in self.victim.endpoint.views() if v.peer == "b" and v.state == "Established")

    def own_children(self) -> set[int]:
        return self.victim.installed - {self.innocent_spi}

    def check(self) -> None:
        """The innocent peer is as it was, and the victim's tables are in order."""
        self.victim.check()
        assert self.innocent_spi in self.victim.installed
        assert "c" in self.victim.established()
        assert self.innocent.request(INFO) == (), "the innocent peer's liveness check was not answered"

    def ask_victim(self, start: Callable[[], None]) -> tuple[object, Payloads]:
        """Have the victim ask; return its request."""
        start()
        self.mallory.inbox += [s.datagram for s in self.victim.drain()]
        return self.mallory.take()

    def voice(self) -> ChildRequest:
        child = self.victim.endpoint._table.policy.peers[0].children[1]
        return ChildRequest(child.key, 0, child.local, child.remote)


def answer_until_silent(world: World, *payloads: Payload) -> int:
    """Answer all requests of the victim that are in the inbox, and those that follow; return how many."""
    asked, seen = 0, set()
    while world.mallory.inbox:
        opened = world.mallory.open(world.mallory.inbox.pop(0))
        if opened is None or opened[0].is_response or opened[0].message_id in seen:
            continue
        seen.add(opened[0].message_id)
        asked += 1
        assert asked < 50, "the victim asks without end"
        refusal = (NotifyPayload(NotifyType.NO_ADDITIONAL_SAS),) if opened[0].exchange == CHILD else ()
        world.mallory.respond(opened[0], *(payloads or refusal))
    return asked
