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
        operations: operations of one function, nested ones included.
        depth: blocks inside blocks, lists inside lists.
        rank: axes of a tensor.
        constants_bytes: decoded constants of one function together.
        live_bytes: values alive at one moment of a run, constants not counted.
        steps: operations executed in one run, loop bodies counted each time.
        iterations: turns of one ``while_loop``.
    """

    manifest_bytes: int = 4 * MIB
    model_bytes: int = 256 * MIB
    messages: int = 4_000_000
    operations: int = 100_000
    depth: int = 16
    rank: int = 8
    constants_bytes: int = 16 * GIB
    live_bytes: int = 16 * GIB
    steps: int = 20_000_000
    iterations: int = 1_000_000
