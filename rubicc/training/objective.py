"""What a network is trained for, read from its metadata: loss, decoder, frames that bases need.

Everything a loss must know of a network's output stands in :class:`rubicc.spec.ModelMeta`; nothing is guessed
from shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rubicc.errors import UsageError
from rubicc.spec import ModelMeta
from rubicc.training import losses
from rubicc.training.lattice import Lattice, crf_lattice, flipflop_lattice

Distil = Literal["auto", "frames", "paths"]


@dataclass(frozen=True)
class Objective:
    """The losses of one kind of network.

    Attributes:
        meta: of the network.
        kind: ``ctc``, ``flipflop``, ``crf``, or ``none``: outputs are distilled or labelled, not decoded.
        lattice: of the transitions, where the output has some.
        state_len, blank_score: of a CRF; ``blank_score`` where the network leaves the stay column out.
    """

    meta: ModelMeta
    kind: str
    lattice: Lattice | None = None
    state_len: int = 0
    blank_score: float | None = None

    @classmethod
    def of(cls, meta: ModelMeta) -> Objective:
        """The objective of a network.

        Raises:
            UsageError: ``RUB-TRAIN-020``: its alphabet or decoder is not one there is a loss for.
        """
        if meta.decoder is None:
            return cls(meta, "none")
        kind, letters = meta.decoder.kind, bases_of(meta)
        if kind != "ctc" and len(letters) != losses.BASES:
            raise UsageError(
                "RUB-TRAIN-020",
                f"decoder {kind!r} over {meta.alphabet!r}: its loss is written for four bases",
                hint="train a network with a CTC head for other alphabets",
            )
        if kind == "flipflop":
            return cls(meta, kind, flipflop_lattice())
        if kind == "ctc":
            return cls(meta, kind)
        length = int(meta.decoder.params.get("state_len", 0))
        if length < 1:
            raise UsageError(
                "RUB-TRAIN-020", "decoder 'crf' without state_len", hint="give it in the metadata"
            )
        blank = meta.decoder.params.get("blank_score")
        return cls(meta, kind, crf_lattice(length), length, None if blank is None else float(blank))

    @property
    def stride(self) -> int:
        """Samples per frame; 1 where the network has none."""
        return self.meta.stride or 1

    @property
    def batch_axis(self) -> int:
        """Of the output: basecallers are ``(T, N, C)``, others have the batch first."""
        return 0 if self.kind == "none" else 1

    def full(self, scores: Tensor) -> Tensor:
        """Scores with every transition's column, float32 or wider."""
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if self.kind == "crf" and self.blank_score is not None:
            return losses.with_stays(scores, self.blank_score)
        return scores

    def task(self, scores: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        """Loss of known bases per item, ``(N,)``; see :mod:`rubicc.training.losses`."""
        full = self.full(scores)
        if self.kind == "ctc":
            return losses.ctc(full, targets, lengths)
        assert self.lattice is not None
        if self.kind == "flipflop":
            return losses.flipflop(full, targets, lengths, self.lattice)
        return losses.crf(full, targets, lengths, self.lattice, self.state_len)

    def distil(self, student: Tensor, teacher: Tensor, temperature: float, how: Distil = "auto") -> Tensor:
        """Distillation loss per item, ``(N,)``: of paths where there are transitions, of frames elsewhere.

        CTC frames are independent of each other, so there both are the same.

        Raises:
            UsageError: ``RUB-TRAIN-021``: the outputs cannot be compared.
        """
        if student.shape != teacher.shape:
            raise UsageError(
                "RUB-TRAIN-021",
                f"the student gives {tuple(student.shape)} scores, the teacher {tuple(teacher.shape)}",
                hint="give a student of the teacher's stride and alphabet, or train it on its calls",
            )
        if how != "frames" and self.lattice is not None:
            return losses.distil_paths(self.full(student), self.full(teacher), self.lattice, temperature)
        return losses.distil_frames(self.full(student), self.full(teacher), temperature, self.batch_axis)

    def comparable(self, teacher: ModelMeta) -> str:
        """Why a teacher's scores cannot be the student's target, or ""."""
        mine, theirs = self.meta, teacher
        if (mine.decoder is None) != (theirs.decoder is None):
            return "one of them calls bases and the other does not"
        if mine.decoder is None or theirs.decoder is None:
            return ""
        if mine.stride != theirs.stride:
            return f"the student's stride is {mine.stride}, the teacher's {theirs.stride}"
        if (mine.decoder.kind, self.state_len) != (theirs.decoder.kind, Objective.of(theirs).state_len):
            return f"the student is decoded by {mine.decoder.kind}, the teacher by {theirs.decoder.kind}"
        if mine.alphabet != theirs.alphabet:
            return f"the student's alphabet is {mine.alphabet!r}, the teacher's {theirs.alphabet!r}"
        return ""

    def frames_needed(self, targets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Least frames in which each target ``(N, L)`` can be spelt; huge where it cannot at all."""
        if self.kind == "ctc":
            inside = np.arange(1, targets.shape[1])[None] < np.asarray(lengths)[:, None]
            return lengths + ((targets[:, 1:] == targets[:, :-1]) & inside).sum(1)
        moves = lengths - max(self.state_len, 1)
        return np.where(moves < 0, np.iinfo(np.int64).max, moves)

    def decode(self, scores: np.ndarray) -> list[str]:
        """Called bases of each item of ``(T, N, C)`` scores, by the model's own decoder."""
        from rubicc.genomics.decode import decode

        return [call.sequence for call in decode(np.ascontiguousarray(scores, np.float32), self.meta)]


def bases_of(meta: ModelMeta) -> str:
    """Letters of the bases, without the blank that all but flip-flop alphabets begin with.

    Raises:
        UsageError: ``RUB-TRAIN-020``: no alphabet.
    """
    if not meta.alphabet:
        raise UsageError(
            "RUB-TRAIN-020",
            f"model {meta.arch!r} does not say its alphabet",
            hint="give the alphabet in the model's metadata",
        )
    return meta.alphabet if meta.decoder and meta.decoder.kind == "flipflop" else meta.alphabet[1:]
