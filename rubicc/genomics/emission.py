"""From posterior masses and a path to bases with error probabilities, for the forward-backward decoders."""

from __future__ import annotations

import numpy as np

from rubicc.genomics.call import BasePath
from rubicc.genomics.jit import kernel

STAY = 255


def base_path(mass: np.ndarray, emitted: np.ndarray) -> BasePath:
    """Bases and errors of a path.

    The steps nearer to a base's emission than to its neighbours' are its window. Its error is the share of
    *other* bases in the mass of its window: when a base is sure but its moment is not, the base stays sure.

    Args:
        mass: float32 ``(T, bases)``, how much the posteriors speak for each base at each step.
        emitted: uint8 ``(T,)``, the base emitted at each step or :data:`STAY`.
    """
    codes, error = _windows(mass, emitted)
    return BasePath((emitted != STAY).astype(np.uint8), codes, error)


@kernel
def _windows(mass: np.ndarray, emitted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    steps, bases = mass.shape
    when = np.flatnonzero(emitted != 255)
    n = len(when)
    codes = np.empty(n, np.uint8)
    error = np.empty(n, np.float32)
    for i in range(n):
        code = emitted[when[i]]
        first = 0 if i == 0 else (when[i - 1] + when[i]) // 2 + 1
        last = steps - 1 if i == n - 1 else (when[i] + when[i + 1]) // 2
        total, own = 1e-9, 0.0
        for t in range(first, last + 1):
            own += mass[t, code]
            for b in range(bases):
                total += mass[t, b]
        codes[i] = code
        error[i] = min(1.0, max(0.0, 1.0 - own / total))
    return codes, error
