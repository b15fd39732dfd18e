"""What the products of a network read, measured on the data it is trained with: means and covariances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from rubicc.errors import VerificationFailed
from rubicc.ir.graph import Graph
from rubicc.passes.prune.readers import Reader
from rubicc.passes.prune.reconstruct import Moments
from rubicc.training.data.stream import DataSet, batch
from rubicc.training.twin import Twin

_AT_ONCE = 16  # items per run of the network
_POSITIONS = 2**16  # of each run that are looked at; a convolution's are thinned out to so many numbers / K
_BYTES = 512 * 2**20  # of sums that are gathered in one pass over the data; more take several


def moments(
    graph: Graph,
    readers: Sequence[Reader],
    data: DataSet,
    *,
    items: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Moments]:
    """Mean and second moments of what each of ``readers`` multiplies, by :attr:`Reader.key`.

    The network runs as when it is used: norms with their running statistics, no dropout.

    Args:
        graph: the network; left as it is.
        readers: products of ``graph`` (:func:`rubicc.passes.prune.readers.readers`).
        data: items from position 0 on of the stream of ``seed``.
        items: how many are run.

    Returns:
        Float32 arrays. Products whose input cannot be told (an unknown form of padding) are left out.

    Raises:
        VerificationFailed: ``RUB-TRAIN-040``: a value is not finite.
    """
    twin = Twin(graph).to(device).eval()
    different = {reader.key: reader for reader in readers}
    found: dict[str, Moments] = {}
    for part in _parts(list(different.values())):
        found |= _gathered(twin, part, data, items, seed)
    return found


def _parts(readers: list[Reader]) -> Iterator[list[Reader]]:
    """The readers, as many at a time as memory is meant for."""
    part: list[Reader] = []
    size = 0
    for reader in readers:
        groups, _, width = reader.shape
        need = groups * width * width * 8
        if part and size + need > _BYTES:
            yield part
            part, size = [], 0
        part.append(reader)
        size += need
    if part:
        yield part


def _gathered(twin: Twin, readers: list[Reader], data: DataSet, items: int, seed: int) -> dict[str, Moments]:
    sums: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    unknown: set[str] = set()
    given = {value.name for value in twin.source.inputs}
    twin.keep({reader.x for reader in readers} - given)
    device = next(twin.parameters()).device
    for first in range(0, items, _AT_ONCE):
        feeds = batch(data, range(first, min(first + _AT_ONCE, items)), seed).to(device).feeds
        with torch.no_grad():
            made = {**feeds, **twin(feeds)}
        for reader in readers:
            array = made[reader.x].float().cpu().numpy()
            x = reader.seen(array, max(1, _POSITIONS * 64 // reader.shape[2]))
            if x is None:
                unknown.add(reader.key)
                continue
            if not np.isfinite(x).all():
                raise VerificationFailed(
                    "RUB-TRAIN-040",
                    f"{reader.x} is not finite on items {first + 1} to {first + _AT_ONCE}",
                    where=data.name,
                    hint="check the data and the model's weights for NaN",
                )
            mean, second, count = sums.get(reader.key, (0.0, 0.0, 0))
            sums[reader.key] = (
                mean + x.sum(axis=2, dtype=np.float64),
                second + np.matmul(x, x.transpose(0, 2, 1)).astype(np.float64),
                count + x.shape[2],
            )
    return {
        key: Moments((mean / count).astype(np.float32), (second / count).astype(np.float32))
        for key, (mean, second, count) in sums.items()
        if key not in unknown
    }
