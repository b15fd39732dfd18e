"""Unaligned BAM records and BGZF blocks, written so that a file can be cut at any commit and continued.

Written here and not through htslib because its writer cannot be asked where its last whole block ended, which
is what resuming needs. Format: SAM/BAM specification v1 (samtools/hts-specs), sections 4.1 and 4.2.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np

EOF_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BLOCK = 0xFF00
_UNMAPPED = 4
_BIN_UNMAPPED = 4680
_FIXED = struct.Struct("<iiBBHHHiiii")
_CODES = np.full(256, 15, np.uint8)
_CODES[np.frombuffer(b"=ACMGRSVTWYHKDBN", np.uint8)] = np.arange(16)

Tag = tuple[str, str, object]


def header(text: str) -> bytes:
    """The BAM header of a file without reference sequences, uncompressed."""
    encoded = text.encode()
    return b"BAM\x01" + struct.pack("<i", len(encoded)) + encoded + struct.pack("<i", 0)


def record(name: str, sequence: str, qstring: str, tags: Iterable[Tag]) -> bytes:
    """One unmapped record, uncompressed. ``qstring`` is phred + 33 text of the length of ``sequence``."""
    label = name.encode("ascii") + b"\0"
    body = b"".join(
        (
            _FIXED.pack(-1, -1, len(label), 0, _BIN_UNMAPPED, 0, _UNMAPPED, len(sequence), -1, -1, 0),
            label,
            _nibbles(sequence),
            (np.frombuffer(qstring.encode("ascii"), np.uint8) - 33).tobytes(),
            *(_tag(*tag) for tag in tags),
        )
    )
    return struct.pack("<i", len(body)) + body


def _nibbles(sequence: str) -> bytes:
    codes = _CODES[np.frombuffer(sequence.encode("ascii"), np.uint8)]
    if len(codes) % 2:
        codes = np.append(codes, np.uint8(0))
    return ((codes[0::2] << 4) | codes[1::2]).tobytes()


def _tag(name: str, kind: str, value: object) -> bytes:
    head = name.encode("ascii")
    if kind == "Z":
        return head + b"Z" + str(value).encode("ascii", "replace") + b"\0"
    if kind == "Bc":
        array = np.asarray(value, dtype=np.int8)
        return head + b"Bc" + struct.pack("<i", len(array)) + array.tobytes()
    return head + kind.encode("ascii") + struct.pack({"i": "<i", "f": "<f"}[kind], value)


def bgzf(data: bytes, level: int = 4) -> bytes:
    """``data`` as whole BGZF blocks (valid gzip), without the end-of-file block."""
    return b"".join(_block(data[start : start + _BLOCK], level) for start in range(0, len(data), _BLOCK))


def _block(data: bytes, level: int) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    size = len(packed) + 25
    if size > 0xFFFF:  # incompressible: a stored block always fits
        packer = zlib.compressobj(0, zlib.DEFLATED, -15)
        packed = packer.compress(data) + packer.flush()
        size = len(packed) + 25
    head = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, size)
    return head + packed + struct.pack("<II", zlib.crc32(data), len(data))
