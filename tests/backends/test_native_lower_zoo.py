"""Programs lowered from the zoo's graphs, run by the numpy reference: the executor's numbers in float64."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_graphs import signal

from rubicc.backends.cpu_gpu.native import reference
from rubicc.backends.cpu_gpu.native.lower import lower, reasons
from rubicc.backends.cpu_gpu.native.program import Conv, Gather, Program, Recurrent
from rubicc.backends.cpu_gpu.prepare import expand_quantisers
from rubicc.errors import Unsupported
from rubicc.ir.executor import execute
from rubicc.ir.graph import Graph
from rubicc.models import registry
from rubicc.models.ctc_config import BlockSpec, CtcConfig
from rubicc.models.recurrent_config import CrfConv, MgruConfig, crf_preset
from rubicc.passes.manager import run_pipeline
from rubicc.passes.pipelines import PIPELINES
from rubicc.passes.quantize.post_training import Options, quantise

CTC = CtcConfig(
    blocks=(
        BlockSpec(16, 9, stride=3, separable=False),
        BlockSpec(24, 5, 2, residual=True),
        BlockSpec(32, 15, dilation=2),
    )
)
CRF = crf_preset(12, 2, 5)
STEM = (CrfConv(12, 5, 6, norm="batchnorm", clamp=(-0.5, 3.5)),)
SMALL: dict[str, tuple[str, Any]] = {
    "relu": ("rubicall-fp", CTC),
    "swish": ("bonito-ctc", replace(CTC, activation="swish", channels_per_group=1)),
    "tanh": ("quartznet", replace(CTC, activation="tanh")),
    "gru": ("taiyaki-mgru", MgruConfig(size=12)),
    "lstm": ("bonito-crf", CRF),
    "lstm, fast": ("bonito-crf", crf_preset(12, 3, 5, head_bias=False)),
    "lstm, sup": ("bonito-crf", crf_preset(16, 5, 6)),
    "lstm, clamps": ("bonito-crf", replace(CRF, convs=STEM, clamp=(-2.0, 2.0))),
    "lstm, narrow": ("bonito-crf", replace(CRF, expand_blanks=False, bottleneck=8)),
    "lstm, blank computed": ("bonito-crf", replace(CRF, blank_score=None, head_activation=None, scale=None)),
}


@functools.cache
def small(case: str) -> Graph:
    """A small network of the zoo as it is emitted."""
    return emitted(*SMALL[case])


def emitted(name: str, config: Any) -> Graph:
    from rubicc.frontend import checkpoint, read_model
    from rubicc.frontend.lower import lower as export

    entry = registry.get(name)
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "m.pt"
        checkpoint.save(path, entry.build(config, seed=0), entry.meta(config))
        made = export(read_model(path), (), 0).graph.clone()
    run_pipeline(made, PIPELINES["cpu_gpu"])
    return made


def wanted(graph: Graph, x: np.ndarray) -> np.ndarray:
    (out,) = execute(graph, {graph.inputs[0].name or "": x}, dtype=np.dtype(np.float64)).values()
    return out


def gap(program: Program, graph: Graph, frames: int) -> float:
    """Largest difference relative to the largest value; infinite where shapes differ."""
    x = signal(frames)
    want = wanted(graph, x)
    try:
        got = reference.run(program, x)
    except ValueError:
        return np.inf
    return float(np.abs(got - want).max() / np.abs(want).max()) if got.shape == want.shape else np.inf


@pytest.mark.parametrize("case", SMALL)
def test_small_networks_are_lowered_exactly(case: str) -> None:
    graph = small(case)
    assert reasons(graph) == ()
    program = lower(graph)
    for frames in (1, 37, 60, 101):
        assert gap(program, graph, frames) < 1e-12
    assert all(buffer.name for buffer in program.buffers)


def test_published_sizes_are_lowered_exactly(lowered_zoo: Callable[[str], Graph]) -> None:
    for name in ("demo-ctc", "taiyaki-mgru"):
        graph = lowered_zoo(name)
        assert gap(lower(graph), graph, 61) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bonito-ctc", "quartznet", "bonito-crf"])
def test_large_networks_are_lowered_exactly(lowered_zoo: Callable[[str], Graph], name: str) -> None:
    graph = lowered_zoo(name)
    for frames in (37, 121):
        assert gap(lower(graph), graph, frames) < 1e-12


def test_everything_is_fused() -> None:
    kinds = [type(step).__name__ for step in lower(small("swish")).steps]
    assert kinds == ["Conv"] * 9 + ["LogSoftmax"]  # six cells and the skip, stem, head
    kinds = [type(step).__name__ for step in lower(small("lstm")).steps]
    assert kinds == ["Conv"] * 3 + ["Recurrent"] * 5 + ["Conv", "Gather"]
    turns = [step.reverse for step in lower(small("gru")).steps if isinstance(step, Recurrent)]
    assert turns == [True, False, True, False, True]


def mutate(program: Program, kind: type, nth: int, **change: Any) -> Program:
    steps = list(program.steps)
    at = [i for i, step in enumerate(steps) if isinstance(step, kind)][nth]
    steps[at] = replace(steps[at], **change)
    return replace(program, steps=tuple(steps))


def test_wrong_programs_are_noticed() -> None:
    program = lower(small("relu"))
    convs = [step for step in program.steps if isinstance(step, Conv)]
    dilated = next(i for i, conv in enumerate(convs) if conv.dilation == 2)
    skipped = next(i for i, conv in enumerate(convs) if conv.add is not None)
    rnn = lower(small("gru"))
    lstm = lower(small("lstm"))
    layer, cell = (next(s for s in p.steps if isinstance(s, Recurrent)) for p in (rnn, lstm))
    gathered = next(step for step in lstm.steps if isinstance(step, Gather))
    mutants = [
        (mutate(program, Conv, 0, pads=(3, 5)), "relu"),
        (mutate(program, Conv, 0, bias=convs[0].bias + np.float32(1e-4)), "relu"),
        (mutate(program, Conv, dilated, dilation=1, pads=(7, 7)), "relu"),
        (mutate(program, Conv, dilated, weight=convs[dilated].weight[:, :, ::-1]), "relu"),
        (mutate(program, Conv, skipped, add=None), "relu"),
        (mutate(program, Conv, skipped, activations=()), "relu"),
        (mutate(rnn, Recurrent, 0, reverse=not layer.reverse), "gru"),
        (mutate(rnn, Recurrent, 1, w_input=np.roll(layer.w_input, 12, axis=0)), "gru"),
        (mutate(rnn, Recurrent, 1, bias_hidden=np.roll(layer.bias_input, 12)), "gru"),
        (mutate(lstm, Recurrent, 0, w_hidden=np.roll(cell.w_hidden, 12, axis=0)), "lstm"),
        (mutate(lstm, Gather, 0, index=np.roll(gathered.index, 1)), "lstm"),
        (mutate(lstm, Gather, 0, constant=1.0), "lstm"),
        (replace(program, layout="NCT"), "relu"),
    ]
    for place, (mutant, case) in enumerate(mutants):
        assert gap(mutant, small(case), 61) > 1e-7, f"mutant {place} went unnoticed"


def test_bf16_rounds_operands_and_keeps_the_output_exact() -> None:
    for case in ("swish", "gru", "lstm"):
        program = lower(small(case), precision="bf16")
        products = [step for step in program.steps if isinstance(step, Conv | Recurrent)]
        assert {step.compute for step in products} == {"bf16"}
        assert all(step.weight.dtype == np.float32 for step in products if isinstance(step, Conv))
        kinds = {buffer.kind for buffer in program.buffers}
        assert kinds == {"f32", "bf16"} and program.buffers[program.output].kind == "f32"
        assert 1e-5 < gap(program, small(case), 101) < 0.05


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("case", ["relu", "swish", "lstm"])
def test_quantised_networks_compute_what_their_graphs_say(case: str, outputs: bool) -> None:
    found = quantise(small(case), [{"x": signal(900)}], options=Options(quantise_outputs=outputs))
    graph, _ = expand_quantisers(found.graph, integer=True)
    program = lower(graph, precision="fp32")
    integers = [step for step in program.steps if isinstance(step, Conv) and step.compute == "u8"]
    assert len(integers) == found.evidence["products"] >= 2
    for frames in (37, 101):  # weights of recurrent layers are rounded to float32 as runtimes round them
        assert gap(program, graph, frames) < (2e-6 if case == "lstm" else 1e-12)


def test_mixed_precision_networks_are_refused_by_operator() -> None:
    config = replace(CTC, quantised=True)
    found = reasons(emitted("rubicall", config))
    assert found and {reason.what.split()[-1] for reason in found} >= {"Round"}
    assert all(reason.node and reason.source for reason in found)


def test_token_networks_are_refused_by_operator() -> None:
    config = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 32,
    }  # fmt: skip
    entry = registry.get("dna-bert")
    graph = emitted("dna-bert", entry.config_from_dict(config))
    said = {reason.what for reason in reasons(graph)}
    assert any("inputs" in what for what in said) and "operator Softmax" in said
    with pytest.raises(Unsupported, match="RUB-CPU-063"):
        lower(graph)
