"""Catalogue of what genomics can refuse: readers and engine 100-199, simulator and decoders 200-299."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-GEN-201": (
        "Impossible simulated reads",
        "The simulator was asked for reads of no bases, for reads longer than the genome given, or for a "
        "genome with letters other than A, C, G, T. The message gives the lengths or the letter; mend the "
        "arguments.",
    ),
    "RUB-GEN-202": (
        "Scores are not finite",
        "The network gave NaN or infinity for a read. Nothing sensible can be decoded from that, so the "
        "read gets no call. Usually the artefact overflows in half precision: run `rubicc verify`, or "
        "compile with --precision fp32. The message counts the values and gives the first output frame.",
    ),
    "RUB-GEN-203": (
        "Scores and decoder do not fit each other",
        "The model's metadata names a decoder, an alphabet and parameters; the scores have another number "
        "of columns, another rank, or the parameters are unknown. The artefact was compiled with metadata "
        "of another network: compile again with the right --arch, or correct the metadata.",
    ),
    "RUB-GEN-204": (
        "Scores are not log-probabilities",
        "CTC decoding takes log-probabilities: exponentiated, each frame sums to one. These do not, so "
        "the network ends without a log-softmax or computes something wrong. Verify the artefact; if the "
        "network really gives logits, add the log-softmax before compiling.",
    ),
}
