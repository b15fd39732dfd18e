"""The strict half of the proof: the emitted project, emulated, against the integer-only graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rubicc.backends.aie.host import Host, from_net
from rubicc.backends.aie.session import open_session
from rubicc.backends.base import Twin
from rubicc.ir.graph import Graph
from rubicc.quantities import MaxGap

NAME = "every integer of the emulated project against the integer-only graph, executed in float64"


@contextmanager
def twins(graph: Graph, folder: Path) -> Iterator[Sequence[Twin]]:
    """The comparison of the files in ``folder`` with ``graph``, which they were emitted from.

    Raises:
        RubiccError: as :func:`rubicc.backends.aie.session.open_session`.
    """
    with open_session(folder) as session:
        host = session.files.host

        def made(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = session.integers(host.integers(feeds))
            return {name: from_net(values, host.axes(name)) for name, values in found.items()}

        yield (Twin(NAME, made, Host(graph, session.files.net).integer_part, MaxGap(max_abs=0.0)),)
