"""Slow, plain arithmetic from the standards, to check vectors and code apart from the library that ipsecd uses."""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ECP_PRIMES = {19: 2**256 - 2**224 + 2**192 + 2**96 - 1, 20: 2**384 - 2**128 - 2**96 + 2**32 - 1, 21: 2**521 - 1}
Point = tuple[int, int] | None


def prf_plus(hash_name: str, key: bytes, seed: bytes, length: int) -> bytes:
    """RFC 7296 2.13, written out: T1 = prf(K, S | 1), Tn = prf(K, Tn-1 | S | n)."""
    out, last, counter = b"", b"", 0
    while len(out) < length:
        counter += 1
        last = hmac.new(key, last + seed + counter.to_bytes(1, "big"), getattr(hashlib, hash_name)).digest()
        out += last
    return out[:length]


def ecp_multiply(method: int, scalar: int, point: Point) -> Point:
    """Scalar times point in affine coordinates, a = -3 (RFC 5903 3)."""
    result: Point = None
    while scalar:
        if scalar & 1:
            result = _ecp_add(method, result, point)
        point = _ecp_add(method, point, point)
        scalar >>= 1
    return result


def _ecp_add(method: int, a: Point, b: Point) -> Point:
    p = ECP_PRIMES[method]
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % p == 0:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, p)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, p)
    x = (slope * slope - a[0] - b[0]) % p
    return x, (slope * (a[0] - x) - a[1]) % p


def x25519(scalar: bytes, u: bytes) -> bytes:
    """The Montgomery ladder of RFC 7748 5."""
    p = 2**255 - 19
    k = int.from_bytes(scalar, "little") & ~7 & ~(1 << 255) | 1 << 254
    x1 = int.from_bytes(u, "little") & ~(1 << 255)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in range(254, -1, -1):
        swap = k >> bit & 1
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % p, b * b % p, d * a % p, c * b % p
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % p, x1 * (da - cb) ** 2 % p
        x2, z2 = aa * bb % p, e * (aa + 121665 * e) % p
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, p - 2, p) % p).to_bytes(32, "little")


def gcm_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """GCM of a 12-byte nonce from single AES blocks and GHASH in integers (NIST SP 800-38D 6.3, 7.1)."""
    hash_key = int.from_bytes(_aes(key, bytes(16)), "big")
    ciphertext = b""
    for number, at in enumerate(range(0, len(plaintext), 16), 2):
        ciphertext += _xor(plaintext[at:at + 16], _aes(key, nonce + number.to_bytes(4, "big")))
    y = 0
    lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    for data in (aad, ciphertext, lengths):
        for at in range(0, len(data), 16):
            y = _gf_multiply(y ^ int.from_bytes(data[at:at + 16].ljust(16, b"\0"), "big"), hash_key)
    return ciphertext + _xor(y.to_bytes(16, "big"), _aes(key, nonce + b"\0\0\0\1"))


def _gf_multiply(x: int, y: int) -> int:
    z = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def _aes(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def chacha20poly1305_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """RFC 8439 2.8 in integers."""
    ciphertext = b""
    for number, at in enumerate(range(0, len(plaintext), 64), 1):
        ciphertext += _xor(plaintext[at:at + 64], _chacha_block(key, number, nonce))
    one_time = _chacha_block(key, 0, nonce)[:32]
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    data = _padded(aad) + _padded(ciphertext) + struct.pack("<QQ", len(aad), len(ciphertext))
    total = 0
    for at in range(0, len(data), 16):
        total = (total + int.from_bytes(data[at:at + 16] + b"\1", "little")) * r % (2**130 - 5)
    tag = (total + int.from_bytes(one_time[16:], "little")) % 2**128
    return ciphertext + tag.to_bytes(16, "little")


def _chacha_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter,
             *struct.unpack("<3I", nonce)]
    x = start[:]
    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                           (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            for m, n, o, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[m] = (x[m] + x[n]) & 0xFFFFFFFF
                mixed = x[o] ^ x[m]
                x[o] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(x, start, strict=True)))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=False))


def modp_prime(bits: int, offset: int) -> int:
    """RFC 3526: 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + offset)."""
    return 2**bits - 2**(bits - 64) - 1 + 2**64 * (_pi(bits - 130) + offset)


def _pi(bits: int) -> int:
    one = 1 << (bits + 64)                          # 64 guard bits
    return 4 * (4 * _arctan_inverse(5, one) - _arctan_inverse(239, one)) >> 64


def _arctan_inverse(x: int, one: int) -> int:
    total = term = one // x
    divisor, sign = 3, -1
    while term:
        term //= x * x
        total += sign * (term // divisor)
        divisor, sign = divisor + 2, -sign
    return total
