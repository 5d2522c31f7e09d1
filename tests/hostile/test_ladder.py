"""The mutation ladder: every message of every operation, changed in every way, on the wire and inside its seal.

Whatever was changed: no fault of ours, tables in order, what was attacked is as it should be or can be ended on both
sides with nothing left, and the IKE SA of a third gateway never notices.  A sample of the rungs runs always, all of
them when `long` tests do.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipsecd.ike.wire.message import SealedMessage, split
from tests.support.ladder import ACTS, Change, World, change_one, cuts, flips, inside, longer, payload_mutants, sampled

CASES = [*((act, 1280) for act in ACTS), ("establish", 250), ("create", 250)]


@pytest.mark.parametrize(("act", "fragment_bytes"), CASES)
def test_datagram_changed_on_the_wire_ends_nothing(act: str, fragment_bytes: int) -> None:
    # Rows 3, 49, 51, 61, 65, 69; G1-G9: the sender repeats the message, and all is as if nothing had been.
    climb(act, fragment_bytes, sealed=False, every=23)


@pytest.mark.parametrize(("act", "fragment_bytes"), CASES)
def test_content_changed_under_valid_keys_ends_cleanly(act: str, fragment_bytes: int) -> None:
    # Rows 3, 4, 51, 52, 53, 56, 61, 67: the same inside SK and SKF, sealed with the keys of whoever sent it.
    climb(act, fragment_bytes, sealed=True, every=17)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("act", "fragment_bytes"), CASES)
@pytest.mark.parametrize("sealed", [False, True])
def test_whole_ladder(act: str, fragment_bytes: int, sealed: bool) -> None:
    climb(act, fragment_bytes, sealed=sealed, every=1)


def climb(act: str, fragment_bytes: int, *, sealed: bool, every: int) -> None:
    """Take the rungs, one in `every`, of each datagram that belongs to an operation."""
    world = World(fragment_bytes=fragment_bytes)
    for at, (wire, content) in enumerate(recorded(world, act)):
        for name, change in sampled(rungs(wire, content, sealed=sealed), every=every, start=at):
            change_one(world, act, at, inside(change) if sealed else lambda _, d, change=change: change(d.data))
            try:
                world.settle()
                world.sane()
                if not sealed:
                    world.agree()
                world.end()
            except (AssertionError, StopIteration) as error:
                raise AssertionError(f"{act}, datagram {at}, {name}: {error}") from error


def recorded(world: World, act: str) -> list[tuple[bytes, bytes]]:
    """Return the datagrams of an operation, and the payloads in each behind the type of the first."""
    contents: list[bytes] = []

    def look(content: bytes) -> bytes:
        contents.append(content)
        return content

    change_one(world, act, -1, inside(look), each=True)
    world.settle()
    wire = [d.data for d in world.net.sent][:len(contents)]
    world.end()
    assert wire
    return list(zip(wire, contents, strict=True))


def rungs(wire: bytes, content: bytes, *, sealed: bool) -> Iterator[tuple[str, Change]]:
    """Return the changes of one datagram, or of what is in it."""
    is_sealed = isinstance(split(wire), SealedMessage)
    sample = content if sealed else wire
    yield "lost", lambda _: None
    yield from longer()
    yield from flips(len(sample), step=1)
    yield from cuts(len(sample), step=1)
    if sealed and (not is_sealed or content[0]):
        yield from payload_mutants(content)
