"""The CRC-32 of two pieces together, from that of each and the length of the second one.

Polynomials over GF(2) modulo that of RFC 1952, bits reversed, as zlib's `crc32_combine` has them; Python offers no way
to that function. The checksum of bytes themselves is `zlib`'s.
"""

from __future__ import annotations

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


def joined(first: int, second: int, length: int) -> int:
    """The checksum of both, where the second one has `length` bytes."""
    shift, power = _ONE, 3
    while length:
        if length & 1:
            shift = _product(_POWERS[power & 31], shift)
        length >>= 1
        power += 1
    return _product(shift, first) ^ second


def _product(one: int, other: int) -> int:
    result = 0
    while one:
        if one & _ONE:
            result ^= other
        one = one << 1 & 0xFFFFFFFF
        other = other >> 1 ^ _POLYNOMIAL if other & 1 else other >> 1
    return result


def _powers() -> list[int]:
    """x to the powers of two."""
    found = [1 << 30]
    for _ in range(31):
        found.append(_product(found[-1], found[-1]))
    return found


_POWERS = _powers()
