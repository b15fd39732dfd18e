"""Catalogue of the CPU and GPU backend's codes: rules of ``check``, errors and decisions."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-CPU-001": (
        "No runtime executes this operator",
        "ONNX Runtime has no kernel for the operator with these element types, or OpenVINO has no "
        "conversion for it. As an error: neither runtime can run the model. As a warning: one of them "
        "can, and only that one may be chosen with --runtime. Replace the operator in the source network "
        "(the module path is given), or export with another opset.",
    ),
    "RUB-CPU-002": (
        "Operator of a foreign domain",
        "The operator does not belong to ONNX; running it would need a custom library beside the "
        "artefact, and an artefact must run with nothing but numpy and the runtime. Export the network "
        "without it.",
    ),
    "RUB-CPU-003": (
        "Quantisers are expanded into arithmetic",
        "QONNX Quant, BipolarQuant and Trunc nodes are no operators of ONNX Runtime or OpenVINO. The pass "
        "lower.expand-quant writes each as scale, round, clip and rescale in fp32: same numbers, no "
        "speed-up. A warning in check; an error only when such nodes are still there at emit."
        " Nothing needs to be done about the warning; choose --precision fp32, fp16 or bf16 for "
        "arithmetic the CPU runs anyway.",
    ),
    "RUB-CPU-004": (
        "Element type of an input or output",
        "Inputs and outputs must be of a type that numpy holds and both runtimes exchange: float16, "
        "float32, float64, signed or unsigned integers, bool. Cast inside the network and export again.",
    ),
    "RUB-CPU-005": (
        "Shape of an input",
        "An error when an input's rank is unknown; give it with --input NAME=SHAPE. A warning when a free "
        "dimension is neither the batch (first axis) nor covered by the model's chunk length: the runtime "
        "choice is then measured with an assumed size.",
    ),
    "RUB-CPU-006": (
        "GPU provider missing",
        "The installed ONNX Runtime has no provider for the GPU asked for, or the provider could not "
        "start (ONNX Runtime would then fall back to the CPU silently; rubicc does not). Install the "
        "package named in the message in place of onnxruntime, with the driver and libraries it needs, or "
        "use --target cpu.",
    ),
    "RUB-CPU-007": (
        "Model too large for one file",
        "An ONNX file cannot exceed 2 GiB. Prune or quantise the model, or use --precision fp16.",
    ),
    "RUB-CPU-008": (
        "The runtime refuses the model",
        "Creating a real session failed for a reason that no single operator explains; the runtime's own "
        "message is given. If `rubicc verify` of the source passes, please report it with `rubicc env`.",
    ),
    "RUB-CPU-009": (
        "Runtime not installed",
        "The runtime asked for cannot be used here. ONNX Runtime and OpenVINO are installed with pip; the "
        "native runtime needs rubicc itself and a C++ compiler. Or choose another with --runtime.",
    ),
    "RUB-CPU-020": (
        "Impossible plan",
        "An option has no meaning here or contradicts another: an unknown runtime, precision or layout, "
        "fewer than one thread, bf16 in ONNX Runtime (OpenVINO and native compute in it), the polyphase "
        "layout in the native runtime (its kernels do that inside), OpenVINO, native or int8 without "
        "TensorRT on a GPU target."
        " Change the option named in the message; `rubicc targets` and docs/targets/cpu_gpu.md list what "
        "each target takes.",
    ),
    "RUB-CPU-030": (
        "The model file is not the one that was compiled",
        "model.onnx is missing or its sha256 differs from the one in runtime.json. Nothing was run. "
        "Restore the artefact or compile again.",
    ),
    "RUB-CPU-031": (
        "runtime.json cannot be used",
        "The file is missing, damaged, or written by another version of rubicc. Use the run.py that lies "
        "beside it, or compile again.",
    ),
    "RUB-CPU-032": (
        "Wrong input names",
        "The model takes exactly the inputs listed by `python run.py --info`. Rename the arrays to those.",
    ),
    "RUB-CPU-033": (
        "Wrong input type",
        "Arrays are not converted silently: a float64 or int16 signal usually means that normalisation "
        "was forgotten. Convert with array.astype once you know it is right.",
    ),
    "RUB-CPU-034": (
        "Wrong input shape",
        "The array's rank, a fixed dimension, or two dimensions that must be equal do not fit, or it is "
        "empty."
        " Give arrays of the shapes that `python run.py --info` prints.",
    ),
    "RUB-CPU-035": (
        "The runtime failed while running",
        "Usually an input shorter than the network's first convolution. The shapes and the runtime's own "
        "message are given."
        " Give longer inputs, or read the runtime's message.",
    ),
    "RUB-CPU-036": (
        "Output contradicts the metadata",
        "The output's shape is not the recorded one, or the number of frames does not fit the recorded "
        "stride. Calls made from it would be wrong DNA, so it is refused. Compile again from the right "
        "model metadata.",
    ),
    "RUB-CPU-037": (
        "Array file of run.py",
        "The input is not an .npz of plain arrays (object arrays are pickles and are refused), or the "
        "output cannot be written."
        " Save plain arrays with numpy.savez, and check that the output's folder may be written.",
    ),
    "RUB-CPU-050": (
        "fp16 does not reach the required accuracy",
        "Even with every operator whose fp16 result is measurably worse kept in fp32, the signal-to-noise "
        "ratio against fp32 stays below the target. Use --precision fp32, or lower the target with "
        "--max-gap.",
    ),
    "RUB-CPU-051": (
        "Nothing is accurate enough",
        "Every form and runtime that could be had misses the accuracy limit of its precision on the inputs "
        "the artefact is proven on; each is named with its figure. Choose a higher --precision (mixed keeps "
        "what is sensitive in float), give better calibration data with --calib, or lower the limit with "
        "--max-gap.",
    ),
    "RUB-CPU-060": (
        "No C++ compiler",
        "The native runtime compiles its kernels once per machine, and no compiler was found: $CXX, g++, "
        "clang++ or c++. Install one, or choose another --runtime.",
    ),
    "RUB-CPU-061": (
        "The native kernels could not be compiled",
        "The C++ compiler was found and failed; its first error is given. It must know C++17 and "
        "-march=native. Name another with CXX=..., or choose another --runtime.",
    ),
    "RUB-CPU-062": (
        "Input shape the native kernels cannot run",
        "The input is too short for a convolution without padding, too large, or has another number of "
        "channels. Give longer or shorter inputs, or choose another --runtime.",
    ),
    "RUB-CPU-063": (
        "Step the native kernels do not take",
        "The network was understood, but a convolution or recurrent layer has a form the kernels do not "
        "have; it is named. Choose another --runtime; --runtime auto leaves native out by itself.",
    ),
    "RUB-CPU-D04": (
        "State of recurrent layers in 8 bits",
        "In the native runtime GRU and LSTM layers whose inputs and weights are 8-bit integers keep their "
        "state in 8 bits too; the graph keeps it in float. The proof compares the result with the source. "
        "--precision bf16 avoids it.",
    ),
    "RUB-CPU-D03": (
        "Runtime left out for its accuracy",
        "Nobody asked for this runtime, another is used, and its outputs miss the accuracy limit. The "
        "artefact does not offer it. Ask for it with --runtime to see the failure as an error.",
    ),
    "RUB-CPU-D02": (
        "Node kept in fp32",
        "In an fp16 graph this node's own rounding was measured to cost more accuracy than allowed.",
    ),
}
