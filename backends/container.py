"""Named byte strings in one: a magic number, a digest of the rest, their lengths, and they themselves.

unpacked(MAGIC, packed(MAGIC, {"ptx": b"..."})) == {"ptx": b"..."}
"""

from __future__ import annotations

import json
from collections.abc import Mapping

Parts = Mapping[str, bytes]


def packed(magic: bytes, parts: Parts) -> bytes:
    """The parts behind `magic`."""
    head = json.dumps({name: len(data) for name, data in parts.items()}).encode()
    body = len(head).to_bytes(8, "little") + head + b"".join(parts.values())
    return magic + _digest(body) + body


def unpacked(magic: bytes, data: bytes) -> Parts | None:
    """The parts; None where the magic number is another or a single bit has changed."""
    start = len(magic) + 32
    body = data[start:]
    if not data.startswith(magic) or data[len(magic) : start] != _digest(body):
        return None
    at = 8 + int.from_bytes(body[:8], "little")
    found: dict[str, bytes] = {}
    for name, length in json.loads(body[8:at]).items():
        found[name] = body[at : at + length]
        at += length
    return found


def _digest(body: bytes) -> bytes:
    from hashlib import sha256  # loads OpenSSL, and import tilec is to be fast

    return sha256(body).digest()
