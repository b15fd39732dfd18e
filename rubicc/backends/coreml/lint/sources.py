"""Where the rules come from: every document, thread and dump, with its address and what it says.

All were read; none was measured by us (there is no Mac here). ``kind`` orders their weight: what Apple
documents or an Apple engineer wrote, compute plans and timings that somebody published from real devices,
reverse engineering of the private compiler, and reports of users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["apple", "plan", "reverse", "report"]
KINDS: dict[Kind, str] = {
    "apple": "Apple's documentation, code, or an Apple engineer",
    "plan": "compute plan or timing of a real device, published by a third party",
    "reverse": "reverse engineering of the private compiler, not of Core ML",
    "report": "report of a user",
}


@dataclass(frozen=True)
class Source:
    """One place where something is said.

    Attributes:
        id: short name, used by the rules.
        kind: how much it weighs.
        address: where it stands.
        says: what is used of it.
    """

    id: str
    kind: Kind
    address: str
    says: str


_ISSUE = "https://github.com/apple/coremltools/issues/"
_GUIDE = "https://apple.github.io/coremltools/docs-guides/source/"
_BOOK = "https://github.com/sbryngelson/ane-guide/blob/9eb1afe/"
_ROWS: tuple[tuple[str, Kind, str, str], ...] = (
    (
        "apple-transformers",
        "apple",
        "https://machinelearning.apple.com/research/neural-engine-transformers",
        "layout (B, C, 1, S), last axis contiguous in 64 bytes, 1x1 convolutions, one head at a time, no "
        "reshapes, few transposes",
    ),
    (
        "apple-reference",
        "apple",
        "https://raw.githubusercontent.com/apple/ml-ane-transformers/main/README.md",
        "reference transformer for A14 and M1 on: layer normalisation and softmax over axis 1",
    ),
    (
        "apple-forum-range",
        "apple",
        "https://developer.apple.com/forums/thread/724930",
        "an engineer: with range shapes only the default shape runs on the Neural Engine; use enumerated "
        "shapes",
    ),
    (
        "apple-rnn",
        "apple",
        _ISSUE + "1780",
        "an Apple engineer: RNN and LSTM are not supported on the Neural Engine; there is no static list, "
        "it changes with device, system and sizes",
    ),
    (
        "apple-scatter",
        "apple",
        "https://github.com/apple/coremltools/blob/e0e2f42/coremltools/converters/mil/frontend/torch/ops.py",
        "comments in the converter: scatter falls off the engine, gather resides on it; float16 squares "
        "overflow",
    ),
    (
        "guide-typed",
        "apple",
        _GUIDE + "typed-execution.html",
        "GPU and Neural Engine use float16, the CPU float32",
    ),
    (
        "guide-flexible",
        "apple",
        _GUIDE + "flexible-inputs.html",
        "enumerated shapes up to 128, one flexible input before iOS 18; reshapeFrequency hint from iOS 17.4",
    ),
    (
        "guide-faq",
        "apple",
        _GUIDE + "faqs.html",
        "enumerated shapes stay on the engine unless a static reshape becomes a dynamic one",
    ),
    (
        "guide-size",
        "apple",
        _GUIDE + "mlmodel-utilities.html",
        "a model on the Neural Engine of an iPhone cannot be larger than 1 GB; bisect_model",
    ),
    (
        "guide-quantization",
        "apple",
        _GUIDE + "opt-quantization-perf.html",
        "per-block 4 bit for the GPU, per-channel scales on the engine; int8 x int8 on A17 Pro and M4; "
        "activations in 8 bits slow CPU and GPU",
    ),
    (
        "guide-palettes",
        "apple",
        _GUIDE + "opt-palettization-perf.html",
        "palettes are decompressed while computing, mostly on the engine; groups of 8 or 16; more tables "
        "are slower",
    ),
    (
        "guide-pruning",
        "apple",
        _GUIDE + "opt-pruning-perf.html",
        "the engine may skip zeros from 75 % unstructured on, or in blocks of 2",
    ),
    (
        "guide-new",
        "apple",
        _GUIDE + "opt-whats-new.html",
        "which compression exists since which system",
    ),
    (
        "plan-whisper-decoder",
        "plan",
        "https://huggingface.co/SingularityUS/atc-whisperkit/blob/main/small/TextDecoder.mlcomputeplan.json",
        "gather supported on the CPU alone; add, expand_dims, split, layer_norm, batch_norm, conv on the "
        "engine",
    ),
    (
        "plan-whisper-encoder",
        "plan",
        "https://huggingface.co/TerminatorPower/whisperkit-coreml/blob/main/openai_whisper-medium/"
        "AudioEncoder.mlcomputeplan.json",
        "conv, gelu, add, layer_norm, batch_norm on the engine",
    ),
    (
        "plan-whisper-mel",
        "plan",
        "https://huggingface.co/mickekringai/kb-whisper-coreml/blob/main/large/MelSpectrogram.mlcomputeplan.json",
        "the window convolution and the reflecting pad supported on the CPU alone; reshape, expand_dims "
        "supported on both and placed on the CPU; squeeze, square on the engine",
    ),
    (
        "plan-detr",
        "plan",
        "https://github.com/roboflow/rf-detr/pull/1495",
        "592 of 599 operations on the engine of an M3 Pro; topk and what uses its indices "
        "(gather_along_axis, tile, expand_dims) on the CPU",
    ),
    (
        "plan-vox",
        "plan",
        "https://github.com/0seba/VoxCPMANE/issues/15",
        "mul, reduce_mean, add, rsqrt, conv, silu on the engine of an M5 Max; constants have no device",
    ),
    (
        "plan-vx-small",
        "plan",
        "https://github.com/vx-lang/Vx/issues/436",
        "a 4x4 product and its casts list the engine as supported and prefer the CPU",
    ),
    (
        "plan-vx-matrix",
        "plan",
        "https://github.com/vx-lang/Vx/issues/435",
        "float16 products prefer the engine of an M4 at 512, the CPU at 384 and below; float32 never; casts "
        "follow",
    ),
    (
        "plan-vx-attention",
        "plan",
        "https://github.com/vx-lang/Vx/issues/437",
        "fused attention prefers the engine from about 2 million elements per operand on, in float16 only",
    ),
    (
        "seed-gena",
        "plan",
        "https://github.com/mpcastro695/GENA-COREML",
        "Xcode's report for GENA-LM base: 977 operations, 954 on the engine; the embedding gather has no "
        "engine entry",
    ),
    (
        "log-width",
        "plan",
        "https://github.com/hollance/neural-engine/issues/2",
        "Core ML's own log on a phone in 2020: (dilated) kernel width 28 > 13 and stride 4 > 2 unsupported, "
        "both of pooling",
    ),
    (
        "plan-larql",
        "plan",
        "https://github.com/chrishayuk/larql/pull/312",
        "products are admitted to a depth of 16,384 and preferred from about 5,000 on in float16 (one token "
        "at a time)",
    ),
    (
        "book-surface",
        "reverse",
        _BOOK + "part-1-machine/04-capability-surface.md",
        "what compiles and runs on an M1: rank up to 5, no recurrent cells, scatter, control flow; integers "
        "rejected",
    ),
    (
        "book-rules",
        "reverse",
        _BOOK + "part-5-practice/17-model-design-rules.md",
        "width and height 16,384, channels 65,536, kernel width 13 in float16, argmax 2,048, 2 MB working "
        "set, groups",
    ),
    (
        "book-matrix",
        "reverse",
        _BOOK + "appendices/a-op-device-matrix.md",
        "operation by device table M1 to M5, limits of kernels, strides and axes per chip",
    ),
    (
        "book-pitfalls",
        "reverse",
        _BOOK + "part-5-practice/19-pitfalls-and-limits.md",
        "slice saturation over 4,094 before the A15; weights at run time fail above one item; twelve "
        "branches",
    ),
    (
        "forge-capabilities",
        "reverse",
        "https://github.com/sbryngelson/ANEForge/blob/067717a/docs/capabilities.md",
        "kernel width 13 on the M1, 15 on the M5; 16,384 to the A15, 65,536 from the A16; which weights "
        "stream",
    ),
    (
        "forge-quirks",
        "reverse",
        "https://github.com/sbryngelson/ANEForge/blob/a7e784b/docs/developer/op-quirks.md",
        "kernel width 15; fused attention reliable in a part of its sizes only; masks misread; one item for "
        "dynamic weights",
    ),
    (
        "orion",
        "reverse",
        "https://github.com/mechramc/Orion/blob/65372ff/docs/ane_constraints.md",
        "M4 Max by private interfaces: concat and gelu refused, buffers from 48 KB on, masks of fused "
        "attention ignored",
    ),
    (
        "hollance",
        "report",
        "https://github.com/hollance/neural-engine/blob/d0bb530/docs/unsupported-layers.md",
        "2020 to 2023, partly guesses: RNN, gather, dilation, some broadcasts, pooling over 13 or stride "
        "over 2",
    ),
    (
        "hollance-16bit",
        "report",
        "https://github.com/hollance/neural-engine/blob/d0bb530/docs/16-bit.md",
        "the engine computes in 16 bits",
    ),
    (
        "gather-cpu",
        "report",
        _ISSUE + "1103",
        "gather_along_axis takes equal time with and without the engine",
    ),
    (
        "norm-fp32",
        "report",
        _ISSUE + "2585",
        "a float32 normalisation is not placed on the engine; a float16 one overflows",
    ),
    (
        "norm-enumerated",
        "report",
        _ISSUE + "1909",
        "a layer_norm keeps a network of enumerated shapes off the engine (175 ms instead of 20)",
    ),
    (
        "enumerated-slow",
        "report",
        _ISSUE + "2370",
        "random enumerated shapes 30 calls a second and 2 % engine, the default shape 370 and 77 %",
    ),
    (
        "range-warning",
        "report",
        _ISSUE + "1029",
        "Xcode: MLE5Engine is not supported for range shapes that try to use the Neural Engine",
    ),
    (
        "batch-overflow",
        "report",
        _ISSUE + "1229",
        "inference overflow on the engine with 4 items, none with 1",
    ),
    (
        "stride-hang",
        "report",
        _ISSUE + "2473",
        "loading a Conv2d of stride 5 or 7 does not finish in 5 minutes, 10 and 11 take 30 s, others seconds",
    ),
    (
        "stride-hang-1d",
        "report",
        _ISSUE + "2660",
        "a Conv1d of stride 6 over 18,001 samples never finishes loading in float16",
    ),
    (
        "stride-message",
        "report",
        _ISSUE + "2173",
        "the engine's compiler: strides of Conv need to be a product of at most 2 interleave factors",
    ),
    (
        "transpose-stride",
        "report",
        _ISSUE + "2450",
        "conv_transpose of stride 16 fails to load on a phone (in float32)",
    ),
    (
        "output-32",
        "report",
        _ISSUE + "1893",
        "float16 outputs whose last axis is no multiple of 32 hold random numbers",
    ),
    (
        "killed",
        "report",
        _ISSUE + "2758",
        "667 MB: the engine's compilation fails unseen, the first prediction kills the process",
    ),
    (
        "zero-point",
        "report",
        "https://forums.developer.apple.com/forums/thread/759608",
        "a product with block-wise weights and a float16 offset does not run on the engine, with an integer "
        "one it does",
    ),
    (
        "state-ane",
        "report",
        "https://github.com/Anemll/Anemll/issues/27",
        "a model with state runs on CPU and GPU and not on the engine; smaller updates do",
    ),
    (
        "cast-m1",
        "report",
        "https://git.madfire.net/berkus/ANE/commits/commit/0cf13e2b8445219a609d75b6aac2811a8cdcc801",
        "hand-written engine programs with casts are refused on M1 and M2",
    ),
)
SOURCES: dict[str, Source] = {row[0]: Source(*row) for row in _ROWS}
