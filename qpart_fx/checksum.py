"""What messages end with, and what goes beside them, so that damage on the way is noticed.

XXH3 reads memory about as fast as it is copied. A CRC-32 takes ten times as long, as much as everything else that is
done with a large message. It is no protection against who alters messages on purpose: TLS is.
"""

from __future__ import annotations

from xxhash import xxh3_64

SIZE = 4
"""Bytes of a checksum in a message."""


def checksum(*parts: bytes | bytearray | memoryview) -> int:
    """The lower 32 bits of the XXH3 (64 bits) of ``parts``, one after the other.

    >>> checksum(b"all ", b"of it") == checksum(b"all of it")
    True
    """
    found = xxh3_64()
    for part in parts:
        found.update(part)
    return found.intdigest() & 0xFFFFFFFF
