"""How the loop calls a network, whatever it is: a torch module, or the trainable twin of a graph.

A module takes its inputs in the order of its metadata; a twin takes and gives mappings by name. Intermediate
values for feature distillation are a module's submodules by path, or a graph's values by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from rubicc.errors import UsageError
from rubicc.spec import ModelMeta
from rubicc.text import did_you_mean

Feeds = Mapping[str, Tensor]
Maps = dict[str, tuple[int, Tensor]]  # name of a value -> axis of its channels, matrix


class Network(nn.Module):
    """A module or twin as ``feeds -> (scores, kept)``.

    Args:
        inner: the network that is trained.
        meta: its metadata; the first output is what losses are taken of.
        keep: intermediate values that are returned beside it.
        maps: of kept values, by name: axis of the channels, and a first matrix ``(C, c)`` that takes the
            ``c`` channels to the ``C`` returned instead; it is a parameter.

    Raises:
        UsageError: ``RUB-TRAIN-022``: no such intermediate value.
    """

    INNER = "inner."  # what the names of its parameters begin with

    def __init__(
        self, inner: nn.Module, meta: ModelMeta, keep: Sequence[str] = (), maps: Maps | None = None
    ) -> None:
        super().__init__()
        self.inner = inner
        self.meta = meta
        self.keep = tuple(keep)
        self.named = hasattr(inner, "write_back")
        self._seen: dict[str, Tensor] = {}
        self._mapped = {name: (axis, f"map{at}") for at, (name, (axis, _)) in enumerate((maps or {}).items())}
        for name, (_, start) in (maps or {}).items():
            self.register_parameter(self._mapped[name][1], nn.Parameter(start.detach().clone()))
        if self.keep and self.named:
            inner.keep(set(self.keep))  # type: ignore[operator]
        elif self.keep:
            self._watch()

    def _watch(self) -> None:
        modules = dict(self.inner.named_modules())
        for name in self.keep:
            if name not in modules:
                hint = did_you_mean(name, modules, f"for example {', '.join(list(modules)[1:4])}")
                raise UsageError("RUB-TRAIN-022", f"the network has no layer {name!r}", hint=hint)
            modules[name].register_forward_hook(self._keeper(name))

    def _keeper(self, name: str) -> Any:
        def hook(module: nn.Module, given: Any, made: Any) -> None:
            self._seen[name] = made[0] if isinstance(made, tuple) else made

        return hook

    def maps(self) -> Maps:
        """The maps as they are now."""
        return {name: (axis, self.get_parameter(own).detach()) for name, (axis, own) in self._mapped.items()}

    def _through(self, name: str, value: Tensor) -> Tensor:
        """A kept value with the channels of its map."""
        if name not in self._mapped:
            return value
        axis, own = self._mapped[name]
        return nn.functional.linear(value.movedim(axis, -1), self.get_parameter(own)).movedim(-1, axis)

    def forward(self, feeds: Feeds) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores of the first output, and the kept values by name."""
        if self.named:
            made = self.inner(dict(feeds))
            kept = {name: self._through(name, made[name]) for name in self.keep}
            return made[self.meta.outputs[0].name], kept
        self._seen.clear()
        made = self.inner(*(feeds[spec.name] for spec in self.meta.inputs))
        first = made[0] if isinstance(made, tuple | list) else made
        first = next(iter(first.values())) if isinstance(first, Mapping) else first
        return first, dict(self._seen)


def as_frames(value: Tensor, batch: int, frames: int) -> Tensor:
    """A kept value as ``(N, T, C)``, from ``(N, C, T)``, ``(T, N, C)`` or ``(N, T, C)``.

    Args:
        frames: of the network's output; a kept value must have as many.

    Raises:
        UsageError: ``RUB-TRAIN-022``: it has no such form.
    """
    for order in ((0, 2, 1), (1, 0, 2), (0, 1, 2)):
        if value.ndim == 3:
            turned = value.permute(order)
            if turned.shape[:2] == (batch, frames):
                return turned
    raise UsageError(
        "RUB-TRAIN-022",
        f"a kept value has shape {tuple(value.shape)}; features are compared as {frames} frames of channels",
        hint="choose a layer after the last stride, giving (N, C, T) or (T, N, C)",
    )


def as_teacher(inner: nn.Module, meta: ModelMeta, keep: Sequence[str] = ()) -> Network:
    """``inner`` in evaluation mode, without gradients."""
    for parameter in inner.parameters():
        parameter.requires_grad_(False)
    return Network(inner, meta, keep).eval()
