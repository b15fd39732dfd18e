"""Catalogue of the Core ML target's codes 4xx: residency rules, and what may be wrong with an audit.

Rules are told here in words (title, why, remedy); conditions, verdicts and sources stand in ``rules.py``.
"""

from __future__ import annotations

_AUDIT = "Run the shipped ane_audit script on a Mac to see where Core ML places it."

# Code -> (title, why the rule holds, remedy).
ENTRIES: dict[str, tuple[str, str, str]] = {
    "RUB-COREML-401": (
        "Not a dump of ane_audit",
        "The file is no JSON of the form that the ane_audit script writes; the message says what is missing.",
        "Run `python ane_audit.py Name.mlpackage -o audit.json` on a Mac and give that file.",
    ),
    "RUB-COREML-402": (
        "The dump belongs to another package",
        "Most operations of the dump are not in ane.json, or the other way round: they describe different "
        "packages, so comparing rules with it would say nothing.",
        "Run ane_audit on the package that lies beside this ane.json.",
    ),
    "RUB-COREML-403": (
        "A package of flexible shape has no one activation memory",
        "Its tensors have free dimensions, and the memory depends on them.",
        "Give a shape for every value, as one run of the interpreter reports them, or compile with fixed "
        "shapes.",
    ),
    "RUB-COREML-404": (
        "The package is newer than the device",
        "Its specification version needs a later system than the one that --target names.",
        "Compile with the older device in --target, or check with the one the package is for.",
    ),
    "RUB-COREML-410": (
        "The Neural Engine computes this operation",
        "The operation has an engine form on every chip from the A13 and M1 on, and no other rule speaks "
        "against it. That Core ML can place it there does not mean that it prefers to.",
        _AUDIT,
    ),
    "RUB-COREML-411": (
        "An operation that the rules do not know",
        "Nothing is known about this operation on the Neural Engine, so it is not counted as eligible.",
        _AUDIT,
    ),
    "RUB-COREML-412": (
        "An operation that only some chips compute on the engine",
        "Older Neural Engines lack the form of this operation that newer ones have, so where it runs "
        "depends on the device.",
        "Replace it by operations that every engine has, or name the oldest chip that matters.",
    ),
    "RUB-COREML-413": (
        "An operation without an engine form",
        "No Neural Engine known computes this operation; Core ML runs it on the CPU or GPU and copies its "
        "inputs and outputs.",
        "Compute it outside the network, or replace it by arithmetic that the engine has (a product by "
        "exp of a sum of logs, and by minimum, or by maximum).",
    ),
    "RUB-COREML-414": (
        "A recurrent cell",
        "Neural Engines have no recurrent cells. An Apple engineer says so of RNN and LSTM; gru, lstm and "
        "rnn have no form on any chip looked at. The cell runs on the CPU or GPU.",
        "Keep it and expect CPU or GPU time, or train a network of convolutions or attention instead.",
    ),
    "RUB-COREML-415": (
        "Control flow",
        "Loops and branches have no engine form, and what they contain runs where they run.",
        "Export the network without loops: unroll them, or use an operation that does the whole (GRU: MIL's "
        "gru).",
    ),
    "RUB-COREML-416": (
        "An operation on tensor lists",
        "Lists of tensors exist beside a loop only, and have no engine form.",
        "Export the network without the loop that fills the list.",
    ),
    "RUB-COREML-417": (
        "A scatter",
        "Writing to computed positions has no engine form.",
        "Use a mask and a select, or slice_update where the place is fixed.",
    ),
    "RUB-COREML-418": (
        "A look-up by numbers that come at run time",
        "A gather with integer indices from an input (an embedding) is seen on the CPU in every compute plan "
        "published; integers are no type of the engine.",
        "Keep it: one look-up costs little. Or make the embedding outside and pass its rows as float16.",
    ),
    "RUB-COREML-419": (
        "A gather at fixed places",
        "Sources differ: Apple's converter calls gather an operation that stays on the engine, reverse "
        "engineering finds it on the M1 only in a small form, and plans show it on the CPU.",
        "Replace it by slices and concat where the places form ranges.",
    ),
    "RUB-COREML-420": (
        "Sorting",
        "topk leaves the engine in compute plans of RF-DETR on an M3 Pro; a newer engine has a form of it "
        "that Core ML was not seen to use.",
        "Return the scores and sort outside the network.",
    ),
    "RUB-COREML-421": (
        "State",
        "State operations have an engine form, but users report models that run on CPU and GPU only for the "
        "size of a state update.",
        _AUDIT,
    ),
    "RUB-COREML-425": (
        "A float32 tensor",
        "The engine computes in float16 only: Core ML's guide says so, and no float32 product was ever seen "
        "to be preferred there.",
        "Compile with --precision fp16. Quantisers on grids finer than float16 holds stay in float32 to be "
        "exact: use 8 bits or less for activations.",
    ),
    "RUB-COREML-426": (
        "An integer tensor",
        "int32 has no form on the engine, so integer arithmetic made at run time runs on the CPU.",
        "Make masks and positions outside the network and pass them as float16; pass ane.mask does it for "
        "attention masks.",
    ),
    "RUB-COREML-427": (
        "A small integer tensor",
        "8- and 16-bit integers pass the engine's border, but only casts and quantisers are known to compute "
        "with them.",
        "Cast to float16 right after the input.",
    ),
    "RUB-COREML-430": (
        "More than five axes",
        "The engine's tensors have at most five axes.",
        "Change the reshape so that axes of size 1 or neighbours fall together.",
    ),
    "RUB-COREML-431": (
        "Five axes",
        "Five axes are taken by elementwise operations, but not by products, convolutions and some "
        "movements.",
        "Make it rank 4, (batch, channels, 1, length); passes ane.layout and ane.attention do so where they "
        "match.",
    ),
    "RUB-COREML-432": (
        "An axis longer than the engine takes",
        "Height and width go to 16,384 up to the A15 and M3 and to 65,536 from the A16 on, channels to "
        "65,536.",
        "Compile for shorter pieces; pass ane.chunk cuts long sequences exactly where the network allows it. "
        "Write a wide linear layer (scores over a vocabulary) as a 1x1 convolution: channels may be many.",
    ),
    "RUB-COREML-433": (
        "An empty axis",
        "A tensor without elements is refused by the engine's compiler.",
        "Remove the operation that makes it.",
    ),
    "RUB-COREML-434": (
        "More than one item per call",
        "Users report an overflow error on the engine with batches that disappears with one item; Apple's "
        "article on the other hand advises batches.",
        "Verify on the device, or use Core ML's batch prediction with a network of one item.",
    ),
    "RUB-COREML-435": (
        "The place of a maximum over a long axis",
        "Places are float16 numbers on the engine, exact to 2,048; longer axes are refused.",
        "Take the maximum outside, or over pieces.",
    ),
    "RUB-COREML-440": (
        "A convolution kernel too wide",
        "In float16 the engine of the M1 takes kernels of width 13, newer ones 15 or 16; a kernel of 400 "
        "was planned on the CPU alone.",
        "Keep pass ane.wide-kernels in the pipeline: it writes the kernel as a sum of narrower ones, "
        "exactly.",
    ),
    "RUB-COREML-441": (
        "A convolution kernel too high",
        "The engine takes kernels of height 29 on the M1 and 32 on newer chips.",
        "Keep pass ane.wide-kernels in the pipeline, or put the long axis last.",
    ),
    "RUB-COREML-442": (
        "A stride that the engine has to break up",
        "Strides are made of at most two of 2, 3, 4, 8. Others take a path that works in one report and "
        "never ends in another: with strides 5 and 7 loading a model did not finish in five minutes.",
        "Fold the stride into channels (the polyphase layout of this package), or verify loading on a "
        "device.",
    ),
    "RUB-COREML-443": (
        "A dilated convolution",
        "Older notes list dilation as unsupported; newer measurements find it native, with compiles tried "
        "up to 8.",
        _AUDIT,
    ),
    "RUB-COREML-444": (
        "A convolution with weights from the network",
        "Weights that are no constants take another path on the engine, which fails for more than one item.",
        "Fold the weights at export, or use one item per call.",
    ),
    "RUB-COREML-445": (
        "A transposed convolution with a large stride",
        "A transposed convolution of stride 16 fails to load on a phone; the cause is not known.",
        "Replace it by two of stride 4, or by a convolution and depth_to_space.",
    ),
    "RUB-COREML-446": (
        "A three-dimensional convolution",
        "It is announced by the hardware tables, and its compilation fails on every chip.",
        "Change the network to two-dimensional convolutions over folded axes.",
    ),
    "RUB-COREML-447": (
        "Groups that the cores cannot share",
        "A number of groups that does not divide the four cores of the M1 loses the direct assignment and "
        "is slower; depthwise convolutions are not affected.",
        "Choose 1, 2, 4 or as many groups as channels.",
    ),
    "RUB-COREML-448": (
        "A large pooling window",
        "Sources differ: windows over 13 or strides over 2 were reported off the engine; reverse "
        "engineering finds windows to 29 on the M1 and more.",
        "Use two smaller poolings after each other, or a mean over the axis.",
    ),
    "RUB-COREML-449": (
        "Padding that the engine lacks",
        "Only constant padding of the last two axes has a form on every engine; a reflecting pad was "
        "planned on the CPU alone.",
        "Keep the padding inside the convolution, or pad outside the network.",
    ),
    "RUB-COREML-450": (
        "Normalisation over other axes than the channels",
        "Apple's reference normalises over axis 1 of (batch, channels, 1, length); over the last axis the "
        "tensor is turned before and after.",
        "Keep passes ane.layout and ane.layer-norm in the pipeline.",
    ),
    "RUB-COREML-451": (
        "Normalisation in a network of enumerated shapes",
        "A layer_norm took a network with enumerated shapes off the engine, which ran there with fixed ones.",
        "Compile with fixed shapes, one package per length.",
    ),
    "RUB-COREML-452": (
        "An epsilon that float16 does not hold",
        "Below 6e-8 it is zero in float16, so a constant row divides by zero.",
        "Raise the network's epsilon to 1e-7 or more where its accuracy allows it.",
    ),
    "RUB-COREML-453": (
        "Softmax over another axis than the channels",
        "Apple's reference takes the softmax over axis 1 of its four; over the last axis the engine turns "
        "the tensor or reduces in pieces.",
        "Keep pass ane.attention in the pipeline.",
    ),
    "RUB-COREML-454": (
        "Fused attention",
        "Where it runs depends on its size: below about two million elements per operand plans show the "
        "CPU, and masks are reported to be ignored or misread by the engine's own form.",
        "Keep pass ane.attention in the pipeline: products and a softmax per head.",
    ),
    "RUB-COREML-455": (
        "A tensor turned or reshaped",
        "The engine can do it, and a copy through memory is what it costs; Apple's second rule is to avoid "
        "it.",
        "Keep passes ane.layout and ane.remove-transposes in the pipeline.",
    ),
    "RUB-COREML-456": (
        "A short last axis wastes memory",
        "The last axis of a tensor is stored in steps of 64 bytes: a single float16 takes 32 times its size.",
        "Put the longest axis last; passes ane.layout and ane.align do so.",
    ),
    "RUB-COREML-457": (
        "A float16 output whose last axis is no multiple of 32",
        "A user gets random numbers at the end of the rows of such an output.",
        "Return float32, which is the default, or pad the last axis to a multiple of 32.",
    ),
    "RUB-COREML-458": (
        "A slice that begins inside the last axis",
        "On chips before the A15 such a slice passes a fixed-point path that turns magnitudes over 4,094 "
        "into infinity.",
        "Keep values small, or slice another axis.",
    ),
    "RUB-COREML-460": (
        "concat, by private interfaces",
        "Hand-written engine programs with concat are refused on one machine; Core ML itself replaces it, "
        "and plans of transformers with many of them run on the engine.",
        _AUDIT,
    ),
    "RUB-COREML-461": (
        "gelu or silu, by private interfaces",
        "Hand-written engine programs with gelu are refused; in Core ML's plans gelu and silu stand on the "
        "engine.",
        _AUDIT,
    ),
    "RUB-COREML-462": (
        "A tensor larger than the engine's working memory",
        "A tensor over 2 MB is cut up and streamed: right, and slower.",
        "Keep pass ane.attention in the pipeline: one head at a time makes the scores smaller.",
    ),
    "RUB-COREML-463": (
        "Many branches into one operation",
        "The engine's compiler searches over branches that meet again; from about twelve on that takes "
        "seconds.",
        "Keep it and expect a long first load, or concatenate in steps.",
    ),
    "RUB-COREML-465": (
        "Shapes given as a range",
        "By an Apple engineer only the default shape of a range runs on the engine, all others on GPU or "
        "CPU; Xcode warns of it. From iOS 17.4 the hint reshapeFrequency = infrequent can change that.",
        "Compile with fixed shapes, or with an enumeration: --shapes.",
    ),
    "RUB-COREML-466": (
        "Enumerated shapes",
        "Each shape can run on the engine, with up to 128 of them; but changing shapes at every call was "
        "measured at a twelfth of the speed, and before iOS 18 one input alone may be flexible.",
        "Use one package per length where calls mix lengths.",
    ),
    "RUB-COREML-467": (
        "A shape computed at run time",
        "An operation whose shape argument is computed is a dynamic layer, which the guide names as not "
        "supported on the engine.",
        "Compile with fixed shapes: shape arithmetic folds away.",
    ),
    "RUB-COREML-470": (
        "Weights quantised per block",
        "The guide advises per-block 4-bit weights for the GPU and per-channel scales or palettes for the "
        "engine; below the M3 blocks are unpacked to float16 at load.",
        "Use palettes (--precision palette4) or int8 for the engine.",
    ),
    "RUB-COREML-471": (
        "Weights with a float zero point",
        "A product with block-wise weights whose zero point is a float does not run on the engine: its "
        "compiler cannot read the zero point. With an integer zero point it does.",
        "Use symmetric quantisation, the default here.",
    ),
    "RUB-COREML-472": (
        "A weight cast at load",
        "constexpr_cast has no form on any engine.",
        "Write the weight as float16.",
    ),
    "RUB-COREML-473": (
        "Many palettes for one weight",
        "Speed drops with the number of look-up tables; the guide finds groups of 8 or 16 channels a good "
        "choice.",
        "Use groups of at least 8 channels.",
    ),
    "RUB-COREML-474": (
        "Weights not sparse enough to be skipped",
        "The engine skips zeros from about 75 % of them on, or in blocks; below, sparse weights save size "
        "alone.",
        "Prune further, or keep them dense.",
    ),
    "RUB-COREML-475": (
        "8-bit activations",
        "Fast 8-bit arithmetic is said of A17 Pro and M4; other measurements on an M4 find 8 bits expanded "
        "to float16. On CPU and GPU they are slower.",
        "Keep float16 activations unless the device is known.",
    ),
    "RUB-COREML-476": (
        "8-bit weights on first-generation engines",
        "On the M1 linear 8-bit weights are unpacked to float16 at load, so they save size and no "
        "bandwidth; 4-bit palettes stream on every chip.",
        "Use palettes (--precision palette4) where the bandwidth of an M1 counts.",
    ),
    "RUB-COREML-480": (
        "A package over 1 GB",
        "By the guide a network on the engine of an iPhone cannot be larger than 1 GB.",
        "Use compressed weights (--precision int8, palette4), or split the network.",
    ),
    "RUB-COREML-481": (
        "A package of hundreds of megabytes",
        "A network of 667 MB loaded without an error although its engine program failed to compile, and the "
        "first prediction ended the process.",
        "Run the first prediction on a new device in a process of its own, or compress the weights.",
    ),
    "RUB-COREML-482": (
        "An input or output below 48 KB, by private interfaces",
        "Direct programs fail with smaller buffers on one machine; Core ML manages its own.",
        _AUDIT,
    ),
    "RUB-COREML-483": (
        "A network too small to be worth it",
        "Supported is not preferred: a 4x4 product lists the engine as supported and runs on the CPU, and "
        "single products of 384 and less did too.",
        "Expect the CPU; give it more samples per call if the engine is wanted.",
    ),
    "RUB-COREML-484": (
        "A cast at the border",
        "Casts between float32 and float16 stand on the engine in plans of an M4; hand-written programs "
        "with casts are refused on M1 and M2.",
        "Pass float16 inputs and outputs (from iOS 16 on) to be free of them.",
    ),
}

CODES: dict[str, tuple[str, str]] = {
    code: (title, f"{why} {remedy}") for code, (title, why, remedy) in ENTRIES.items()
}
