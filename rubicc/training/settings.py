"""How a network is trained: every number of a run, with the default that is taken where nobody gives one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from rubicc.errors import UsageError
from rubicc.training.data.augment import DEFAULT, Augment


@dataclass(frozen=True)
class TrainSettings:
    """One training run. Times are in steps of the optimiser unless they say otherwise.

    Attributes:
        steps: in all.
        batch: items per process and pass.
        accumulate: passes per step; the gradients are those of ``accumulate`` times the batch.
        chunk: samples of an item, where the data do not say.
        lr: peak learning rate of AdamW; ``lr_end``: last one, as a share of it (cosine).
        warmup: steps from 0 to the peak.
        weight_decay: of tensors of rank 2 and more; biases, norms and scales are left alone.
        beta1, beta2, epsilon: of AdamW.
        clip: largest norm of the gradient; 0 = not clipped.
        bf16: run the network under bfloat16 autocast; weights, losses and optimiser stay float32.
        ema: decay of the running mean of the weights that is validated and kept; 0 = the weights themselves.
        alpha: share of distillation in the loss, the rest is the loss of known bases; None = 1 where no bases
            are known or there is no loss for them, 0 without a teacher, else 0.9.
        temperature: of distillation.
        distil: ``paths`` (transition posteriors), ``frames`` (class axis) or ``auto``.
        features: (layer of the student, layer of the teacher) pairs that shall look alike.
        feature_weight: of their loss, beside the others.
        labels: what a teacher gives: ``scores``, ``calls`` (its bases as targets), or ``auto``: scores where
            they can be compared.
        copies: of each read that a teacher labels beforehand; 0 = it runs in every step.
        augment: of the signal.
        validate_every: steps between validations; ``validation_items``: at most so many items.
        patience: validations without a better one until training stops; 0 = never.
        best: what the best weights are chosen by; ``auto`` = identity where bases are called, else loss.
        save_every: seconds between states that a killed run goes on from.
        seed: of data order, augmentation and dropout.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``.
    """

    steps: int = 2000
    batch: int = 16
    accumulate: int = 1
    chunk: int = 3600
    lr: float = 2e-3
    lr_end: float = 0.01
    warmup: int = 100
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip: float = 2.0
    bf16: bool = False
    ema: float = 0.0
    alpha: float | None = None
    temperature: float = 1.0
    distil: Literal["auto", "frames", "paths"] = "auto"
    features: tuple[tuple[str, ...], ...] = ()
    feature_weight: float = 1.0
    labels: Literal["auto", "scores", "calls"] = "auto"
    copies: int = 6
    augment: Augment = field(default=DEFAULT)
    validate_every: int = 250
    validation_items: int = 64
    patience: int = 0
    best: Literal["auto", "identity", "loss"] = "auto"
    save_every: float = 30.0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "chunk", "validate_every", "validation_items"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("warmup", "weight_decay", "clip", "copies", "patience", "feature_weight", "save_every"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("lr", "epsilon", "temperature"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("lr", "weight_decay", "feature_weight", "epsilon", "temperature"):
            _require(math.isfinite(getattr(self, name)), name, getattr(self, name), "finite")
        for name in ("beta1", "beta2", "ema"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        _require(0 <= self.lr_end <= 1, "lr_end", self.lr_end, "in [0, 1]")
        _require(self.alpha is None or 0 <= self.alpha <= 1, "alpha", self.alpha, "in [0, 1]")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "not negative and below 2**63")
        pairs = all(len(pair) == 2 for pair in self.features)
        _require(pairs, "features", self.features, "pairs of a student's and a teacher's layer")


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        hint = f"give another --{name.replace('_', '-')}"
        raise UsageError("RUB-TRAIN-024", f"{name} = {value!r} cannot work: it is {rule}", hint=hint)
