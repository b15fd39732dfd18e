"""Catalogue of the codes raised and recorded by passes; ``rubicc explain CODE`` prints these."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-PASS-001": (
        "Unknown pass",
        "No pass of that id is built in or comes from a plugin. `rubicc passes list` prints all ids; the "
        "message names the nearest one. With RUBICC_PLUGINS=0 plugin passes are not looked up.",
    ),
    "RUB-PASS-002": (
        "Pass declared wrongly",
        "A pass class must set a unique `id` of the form `family.name`, an `Options` dataclass whose "
        "fields all have defaults, and a docstring; an exact pass declares the float tolerance of its "
        "reassociation, an inexact one a tolerance above 0. Mend the class named in the message.",
    ),
    "RUB-PASS-003": (
        "Wrong pass option",
        "Options are written `passes.<id>.<option>=<value>`. The pass must be part of the pipeline that "
        "runs, the option must be a field of its Options, and the value must have the field's type. "
        "`rubicc passes show ID` lists the options with their defaults.",
    ),
    "RUB-PASS-004": (
        "Plugin pass could not be loaded",
        "An installed package announces a pass in the entry-point group `rubicc.passes`, and importing it"
        " failed, or it clashes with a built-in id. The message names the package. Everything else keeps "
        "working; upgrade or remove the package, or set RUBICC_PLUGINS=0 to ignore all plugins.",
    ),
    "RUB-PASS-005": (
        "Pass does not come to rest",
        "A pass that asks to be repeated until nothing changes still reported a change after 100 rounds. "
        "This is a fault of the pass: two of its rewrites undo each other, or it reports a change it did "
        "not make."
        " Report it with the model; a pass of your own must return False when nothing changed.",
    ),
    "RUB-PASS-006": (
        "Pipeline order broken",
        "A pass requires a property that no earlier pass of the pipeline ensures. Move the pass that "
        "ensures it forward, or add it.",
    ),
    "RUB-PASS-007": (
        "Pass left an illegal graph",
        "After this pass the graph breaks rules of the graph verifier, or its inputs or outputs changed. "
        "This is a fault of the pass; the message lists every broken rule. Please report it with the "
        "model.",
    ),
    "RUB-PASS-010": (
        "Quantiser cannot be expanded",
        "A QONNX quantiser can be written as standard ONNX arithmetic only when its bit width is a "
        "constant scalar and its rounding mode is known, at ONNX operator set 13 or later. Export the "
        "model with constant bit widths, or choose a target that runs QONNX quantisers itself.",
    ),
    "RUB-PASS-011": (
        "Weights do not fit half precision",
        "A weight is larger than 65504, the largest finite number of fp16. Leave the nodes named in the "
        "message in fp32 (`keep`), or set `overflow=keep` to have this done for every such weight.",
    ),
    "RUB-PASS-012": (
        "Element types unknown",
        "Half precision can be applied only when every value's element type is known. Run `cleanup.infer-"
        "shapes` first, and check the model for operators it cannot type.",
    ),
    "RUB-PASS-020": (
        "Pass changed the interface",
        "The harness found that names, types or shapes of graph inputs or outputs differ after the pass."
        " Use Editor.replace_value for values that may be graph outputs.",
    ),
    "RUB-PASS-021": (
        "Pass changed what the graph computes",
        "The harness ran the graph before and after the pass, and an output differs by more than the pass"
        " declares. The message gives the output, the difference and the tolerance."
        " Mend the pass; declare a tolerance only for rounding that the rewrite cannot avoid.",
    ),
    "RUB-PASS-022": (
        "Pass is not idempotent",
        "Run a second time on its own result the pass reported a change, or left other bytes."
        " Make it find its own result done.",
    ),
    "RUB-PASS-023": (
        "Pass made another operator count than expected",
        "The difference of operator counts is not the one the test states."
        " Mend the pass, or the count in the test if the rewrite was meant to change.",
    ),
    "RUB-PASS-024": (
        "Pass lost provenance or types",
        "A node made by a pass must say which pass made it and which module it stands for, and every "
        "value whose type and shape were known before must be as well known after."
        " Use Editor.node and Editor.mark, and give new values a type and shape.",
    ),
    "RUB-PASS-025": (
        "Pass reported its change wrongly",
        "The pass said that it changed nothing and did, or touched the graph or weights it was not given "
        "(weights are shared between copies and must be replaced, never written into)."
        " Return whether anything changed, and make new tensors with Editor.initializer.",
    ),
    "RUB-PASS-026": (
        "Mutant survived",
        "A deliberately wrong variant of a pass went through the harness. The test's graph or inputs do "
        "not exercise what the mutant breaks."
        " Change the graph or its inputs until the mutant fails.",
    ),
    "RUB-PASS-030": (
        "Value on no power-of-two grid",
        "Integer legalisation reads and makes values through quantisers whose scale is one power of two and "
        "whose zero point is 0, with weights on such grids too. The message names the stage that has none. "
        "Run integer.place before it with a format for every value, or compile with calibration data.",
    ),
    "RUB-PASS-031": (
        "Function without a table",
        "A function of one value becomes a table of its results. This one holds an operator that cannot be "
        "evaluated, or is infinite or undefined somewhere in the range of its argument. Clip the argument in "
        "the model, or leave the layer to the host.",
    ),
    "RUB-PASS-032": (
        "Block without integers",
        "A layer normalisation or an attention has sizes or steps that its integer form has no numbers for; "
        "the message says which. Use multiples of 8 channels in every head and in every normalisation.",
    ),
    "RUB-PASS-033": (
        "No assignment of widths keeps the budgets",
        "Budgets of mean width, size, bit operations, divergence and latency must be reachable with the "
        "widths that are allowed; the message says what each would take at least. Raise the budget, or allow "
        "narrower widths.",
    ),
    "RUB-PASS-D43": (
        "Attention in 8 bits",
        "Queries, keys and values have 8 bits whatever the rest has: the array multiplies probabilities, "
        "which have 8, with values of 8 bits.",
    ),
    "RUB-PASS-050": (
        "No such group or layer",
        "Options of pruning name groups of channels or weights that the graph does not have. `rubicc prune "
        "MODEL --list` prints all names; patterns such as `gru.*` work. The message names the nearest one.",
    ),
    "RUB-PASS-051": (
        "Budget cannot be met",
        "Even the largest cut that the options allow costs more than the budget: protected channels, "
        "alignment and the option `most` (the largest share a layer may lose) bound it. "
        "Raise the budget or `most`, or allow more with `inside` and `norms`.",
    ),
    "RUB-PASS-052": (
        "Nothing would be left",
        "All channels of a layer were to be cut. Keep at least one channel of every group.",
    ),
    "RUB-PASS-053": (
        "Scores do not fit the weights",
        "Importance scores are given by name of initializer and have its shape, one number each. The "
        "message names the first that is missing or of another shape. Give scores of the pruned graph "
        "itself.",
    ),
    "RUB-PASS-054": (
        "Pruning file cannot be read",
        "A pruning file has names of layers and shares of zeros in turns, on lines of their own, as "
        "Taiyaki's `data.txt`; a share is at least 0 and below 1. Mend the entry named in the message.",
    ),
    "RUB-PASS-055": (
        "A note of an earlier pass is damaged",
        "Pruning and the removal of skips note in the model's metadata what they did, so that a second run "
        "counts from the same start. The note in this file is not one they write. Remove the entry named in "
        "the message; shares and budgets then count from the model as it is.",
    ),
    "RUB-PASS-060": (
        "No such skip",
        "A name or pattern fits no residual connection that can go: there is none of that name, or it is "
        "joined by a concatenation, a broadcast or a Sum of several values, as the message says. "
        "Run `rubicc skipclip MODEL --list`, which prints all names and why some stay.",
    ),
    "RUB-PASS-D40": (
        "Quantisers of the model replaced",
        "The model came with quantisers whose scales are no powers of two, or whose widths the array does "
        "not multiply. They were replaced by power-of-two ones of the nearest width at least as wide, fitted "
        "on calibration data; the message counts them. Train with power-of-two scales to keep them.",
    ),
    "RUB-PASS-D41": (
        "Finer than the sums",
        "A result's format was made coarser than its values asked for, because the sums it is rounded from "
        "have no finer steps. Give the product more bits if its layer turns out to cost accuracy.",
    ),
    "RUB-PASS-D42": (
        "Wider than the model asked for",
        "The model's own quantisers ask for widths that the array does not multiply (values of 4 bits, odd "
        "widths). The next wider type computes them; formats are fitted to that width, so nothing is lost "
        "but speed and memory. Train with 4, 8 or 16 bits for weights and 8 or 16 for values to avoid it.",
    ),
    "RUB-PASS-D01": (
        "Node kept in fp32",
        "A node asked to run in fp16 stays in fp32 because one of its weights exceeds 65504, the largest "
        "finite fp16 number.",
    ),
    "RUB-PASS-D02": (
        "Quantisers expanded",
        "QONNX quantisers were rewritten into float arithmetic that every runtime executes. The numbers stay "
        "the same, integer speed is not gained.",
    ),
    "RUB-PASS-D04": (
        "Product kept in float",
        "Post-training quantisation left a convolution or linear layer in float, because with it in int8 the "
        "output would not have kept the signal-to-noise ratio asked for. The report has each one's own noise."
        " Loosen --max-gap, give representative --calib data, or train with quantisation.",
    ),
    "RUB-PASS-D05": (
        "Biases moved by ONNX Runtime",
        "From its optimisation level `basic` on, ONNX Runtime rounds the bias of a product with quantised "
        "input and weights to whole steps of input scale x weight scale. Our own quantisation puts biases "
        "there; a model that came quantised keeps its own, and ONNX Runtime computes a slightly different "
        "network. Export the model with int32 biases of that scale, or use --runtime openvino or native.",
    ),
    "RUB-PASS-D50": (
        "Importance measured otherwise",
        "The importance that was asked for says nothing about some channels (no normalisation scales them, "
        "or no scores are given for their weights). The magnitude of their weights was used instead.",
    ),
    "RUB-PASS-D51": (
        "Channels not aligned",
        "A group of channels is smaller than the alignment asked for, or already no multiple of it, so that "
        "the number that stays is no multiple either.",
    ),
    "RUB-PASS-D20": (
        "Attention left in one product",
        "An attention was not written head by head for the Neural Engine, because it is not understood: "
        "rotary positions, products of relative positions, probabilities that are read elsewhere, heads that "
        "interleave. It computes what it did, in more reshapes and transposes, and may run on the CPU or the "
        "GPU. Export the model with separate projections and an additive mask if the speed matters.",
    ),
    "RUB-PASS-D21": (
        "Attention without a mask",
        "The network attends to every token and its tokens have a padding id, so its outputs change with the "
        "amount of padding behind a sequence. Export the model with an attention mask as input, or run it on "
        "sequences that fill the input.",
    ),
    "RUB-PASS-D22": (
        "Masked scores raised",
        "A mask adds a number that float16 cannot hold (often the lowest float32), which would become "
        "infinite and make sums undefined. It was raised to the value of passes.ane.mask.masked: the softmax "
        "gives the same zero, unless a query may attend to nothing at all. Change passes.ane.mask.masked to "
        "have another value.",
    ),
    "RUB-PASS-D23": (
        "Mask kept inside",
        "The attention mask was asked for as an input made outside, and stays computed inside the network: "
        "no rule by padding was found for it, or layers have different masks. Export the model with an "
        "additive mask as input.",
    ),
    "RUB-PASS-D30": (
        "Wide kernel left",
        "A convolution has a kernel wider than the Neural Engine takes, and it could not be written as "
        "narrow ones: its weights have no known shape, or its padding depends on a length that is not known. "
        "It will run on the CPU or the GPU. Export the model with explicit padding, or fix the input length.",
    ),
    "RUB-PASS-D31": (
        "Sequence left whole",
        "A value has more positions than the Neural Engine takes, and what computes it needs all of them "
        "(recurrent layers, attention), or its kernels reach too far to be cut. It will run on the CPU or "
        "the GPU. Compile for a shorter input and call the model on overlapping chunks.",
    ),
    "RUB-PASS-D32": (
        "Lengths padded",
        "Because passes.ane.align.multiple asked for it, lengths were padded to a multiple and results cut "
        "again. The numbers stay the same; the message says how many positions are computed for nothing.",
    ),
}
