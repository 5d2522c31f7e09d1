"""Mutations that are the same each time: what the ordinary suite tries of a target without a fuzzer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
EDGES = (0, 1, 0x7F, 0x80, 0xFF)


def corpus(target: str) -> list[bytes]:
    """Return what fuzzing found worth keeping for a target, in the order of names."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]


def mutants(seeds: list[bytes], count: int) -> Iterator[bytes]:
    """Yield the seeds, and `count` changes of them: bytes, lengths, pieces that come, go, or are of another seed."""
    yield from seeds
    chance = random.Random(len(seeds))
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            _change(data, chance.choice(seeds), chance)
        yield bytes(data)


def _change(data: bytearray, other: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    size = chance.choice((1, 1, 2, 4, 8, 16, 64))
    match chance.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 1 if at < len(data):
            data[at] = chance.choice(EDGES)
        case 2 if at + 1 < len(data):
            value = int.from_bytes(data[at:at + 2], "big") + chance.choice((-1, 1, -4, 4, 256))
            data[at:at + 2] = (value & 0xFFFF).to_bytes(2, "big")
        case 3:
            del data[at:at + size]
        case 4:
            data[at:at] = data[at:at + size]
        case 5:
            start = chance.randrange(len(other) + 1)
            data[at:at] = other[start:start + size]
        case 6:
            del data[at:]
        case _:
            data[at:at + size] = chance.randbytes(size)
