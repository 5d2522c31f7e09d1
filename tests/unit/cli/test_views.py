"""What a terminal gets: escaped, without markup of peers, and complete about what is wrong."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console, RenderableType

from ipsecd.cli.answer_views import event_view, plan_view
from ipsecd.cli.status_view import status_view
from ipsecd.control import schema
from tests.support.control import peer_failing, peer_up, status_answer

HOSTILE = 'x"\n\x00\x1b[2J\x9b2J\u202e[red]{}'


def test_status_of_hostile_names_is_escaped_and_never_markup() -> None:
    answer = status_answer(peer_up(HOSTILE, HOSTILE), peer_failing(HOSTILE))

    text = shown([status_view(answer, detailed=True)])

    assert all(line.isprintable() for line in text.splitlines())
    assert "[red]" in text and "\\x1b[2J" in text


def test_event_is_one_line_without_markup() -> None:
    fields = {"event": "hint", "level": "warning", "time": "t", "peer": "hq",
              "failure": {"cause": "peer_error", "detail": "d", "theirs": "[bold]no", "notify": ""}}

    assert shown([event_view(fields)]) == "t hint peer=hq cause=peer_error theirs=[bold]no\n"


def test_status_says_that_an_old_configuration_runs_and_why() -> None:
    answer = status_answer()
    config = answer.config.model_copy(update={"running_old": True, "problems": ["a.yaml:1:1: unknown key"]})

    text = shown([status_view(answer.model_copy(update={"config": config}))])

    assert "running the old configuration" in text and "a.yaml:1:1: unknown key" in text


def test_status_shows_a_missing_guard_drops_and_warnings() -> None:
    answer = status_answer()
    gateway = answer.gateway.model_copy(update={"guard": schema.GuardView(installed=False, repairs=2),
                                                "drops": {"esp_replayed": 3, "no_sa": 0}})
    config = answer.config.model_copy(update={"warnings": ["IPv6 of office is unprotected"]})

    text = shown([status_view(answer.model_copy(update={"gateway": gateway, "config": config}))])

    for part in ("guard is not installed", "drops: esp_replayed 3", "repairs of what others removed: 2",
                 "warning: IPv6 of office is unprotected"):
        assert part in text
    assert "no_sa" not in text


def test_error_of_a_peer_that_is_up_again_fades() -> None:
    old = peer_up().model_copy(update={"last_error": peer_failing().last_error.model_copy(update={"age_s": 7200.0})})

    assert "no common IKE proposal" not in shown([status_view(status_answer(old))])


def test_status_of_an_attempt_shows_what_its_ike_sa_waits_for() -> None:
    ike = schema.IkeView(ike="0011:", state="InitSent", role="initiator", path="a -> b", age_s=8.0,
                         waiting_for=schema.Wait(why="retransmit IKE_SA_INIT", in_s=2.0))
    peer = schema.PeerView(name="hq", state="connecting", addresses=[], ike=[ike], attempts=3)

    text = shown([status_view(status_answer(peer), detailed=True)])

    assert "hq: retransmit IKE_SA_INIT in 2s, 3 attempts failed" in text
    assert "identities" not in text and "rekey in" not in text


def test_status_names_the_gateway_that_the_peer_sent_us_to() -> None:
    peer = peer_up().model_copy(update={"redirected_to": "gw2.example"})

    assert "sent on by the peer to gateway gw2.example" in shown([status_view(status_answer(peer))])


def test_status_without_peers_says_so() -> None:
    assert "no peers" in shown([status_view(status_answer().model_copy(update={"peers": []}))])


def test_plan_without_changes_says_so() -> None:
    assert shown(plan_view(schema.PlanAnswer(ok=True), nothing="nothing would change")) == "nothing would change\n"


def test_status_of_100_peers_fits_80_columns_and_sums_them_up() -> None:
    peers = [peer_up(f"branch-office-in-a-far-town-{n:03}") if n % 10 else peer_failing(f"site-{n}")
             for n in range(100)]
    text = shown([status_view(status_answer(*peers))])

    assert max(len(line) for line in text.splitlines()) <= 80
    assert "100 peers: 90 up, 10 waiting" in text and "100 children: 90 up, 10 waiting" in text
    assert all(peer.name in text for peer in peers)


def shown(parts: Iterable[RenderableType]) -> str:
    """Render as on a plain terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False, emoji=False)
    for part in parts:
        console.print(part, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
