"""Port of ``DNA.swift``."""

from __future__ import annotations

LETTERS = "ACGTURYKMBVDHNSWacgturykmbvdhnsw"
PARTNERS = "TGCAAYRMKVBHDNSWtgcaayrmkvbhdnsw"


def reverse_complement(sequence: str) -> str:
    """The other strand; IUPAC codes are complemented, case is kept, anything else stays as it is."""
    pairs: dict[str, str] = {}
    for letter, partner in zip(LETTERS, PARTNERS, strict=True):
        pairs[letter] = partner
    other = []
    for letter in reversed(sequence):
        other.append(pairs.get(letter, letter))
    return "".join(other)
