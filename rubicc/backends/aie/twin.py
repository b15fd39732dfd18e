"""The strict half of the proof: the emitted project, emulated, against the integer-only graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rubicc.backends.aie.host import Host, from_net
from rubicc.backends.aie.session import AieSession, open_session
from rubicc.backends.base import Twin
from rubicc.ir.graph import Graph
from rubicc.quantities import MaxGap

NAME = "every integer of the emulated project against the integer-only graph, executed in float64"
BEHIND = "the same integers, behind other signal in the same stream"
Arrays = Mapping[str, np.ndarray]


@contextmanager
def twins(graph: Graph, folder: Path) -> Iterator[Sequence[Twin]]:
    """The comparisons of the files in ``folder`` with ``graph``, which they were emitted from.

    Raises:
        RubiccError: as :func:`rubicc.backends.aie.session.open_session`.
    """
    with open_session(folder) as session:
        stream, wanted = _Stream(session), Host(graph, session.files.net).integer_part
        exact = MaxGap(max_abs=0.0)
        yield (Twin(NAME, stream.first, wanted, exact), Twin(BEHIND, stream.last, wanted, exact))


class _Stream:
    """An item twice in one emulated run, so that what an item leaves behind in the array is seen.

    Groups of sequences that the plan interleaves are filled with the item backwards in time: the second
    group starts where history, states and counters are those of another signal.
    """

    def __init__(self, session: AieSession) -> None:
        self._session = session
        self._last: tuple[Arrays, int, dict[str, np.ndarray]] | None = None

    def first(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Integers of the item where it comes first, laid out as the graph has them."""
        count, made = self._run(feeds)
        return self._laid_out(made, slice(0, count))

    def last(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Integers of the item where it comes last."""
        count, made = self._run(feeds)
        return self._laid_out(made, slice(-count, None))

    def _laid_out(self, made: dict[str, np.ndarray], part: slice) -> dict[str, np.ndarray]:
        host = self._session.files.host
        return {name: from_net(values[part], host.axes(name)) for name, values in made.items()}

    def _run(self, feeds: Arrays) -> tuple[int, dict[str, np.ndarray]]:
        """Sequences of the item, and integers of the whole stream; the driver asks twice in a row."""
        if self._last is None or self._last[0] is not feeds:
            items, lanes = self._session.files.host.integers(feeds), self._session.files.plan.lanes
            count = len(next(iter(items.values())))
            stream = {}
            for name, values in items.items():
                others = np.resize(values[:, :, ::-1], (-count % lanes, *values.shape[1:]))
                stream[name] = np.concatenate([values, others, values])
            self._last = (feeds, count, self._session.integers(stream))
        return self._last[1], self._last[2]
