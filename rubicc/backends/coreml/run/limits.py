"""Bounds on reading and running a package: an unknown file may not cost more memory or time than this."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What the interpreter spends at most on one package.

    Attributes:
        manifest_bytes: size of ``Manifest.json``.
        model_bytes: size of ``model.mlmodel``; weights are in another file.
        messages: protobuf messages in the model file, counted before they are made when it is large.
        operations: operations of the file, all functions and nested blocks together.
        depth: blocks inside blocks, lists inside lists.
        rank: axes of a tensor.
        constants_bytes: decoded constants of one function together.
        live_bytes: values alive at one moment of a run, constants not counted.
        steps: operations executed in one run, loop bodies counted each time.
        iterations: turns of one ``while_loop``.
        products: multiplications of matrix products, convolutions and recurrent layers in one run, each
            asked for before it begins; a BERT of 110 M weights over 512 tokens takes 5e10.
        seconds: time of one run, looked at between operations.
    """

    manifest_bytes: int = 4 * MIB
    model_bytes: int = 128 * MIB
    messages: int = 3_000_000
    operations: int = 50_000
    depth: int = 16
    rank: int = 8
    constants_bytes: int = 8 * GIB
    live_bytes: int = 4 * GIB
    steps: int = 5_000_000
    iterations: int = 100_000
    products: int = 50_000_000_000_000
    seconds: float = 3600.0
