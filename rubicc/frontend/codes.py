"""Every code a reader can raise: title and what to do about it."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-READ-001": (
        "model not found or not readable",
        "The path names nothing this user may read. Check the spelling and the permissions.",
    ),
    "RUB-READ-002": (
        "not a regular file",
        "A model is a regular file or one of the known folders. Pipes, sockets and devices are refused "
        "because reading them can block for ever or never end."
        " Give the path of the file itself.",
    ),
    "RUB-READ-003": (
        "empty file",
        "The file holds no bytes, so a download or copy probably failed. Fetch it again.",
    ),
    "RUB-READ-004": (
        "unknown model format",
        "The content is none of the forms rubicc reads: rubicc checkpoint, state dict with --arch, .pt2, "
        "Hugging Face folder, bonito folder, taiyaki checkpoint, ONNX/QONNX, python:pkg.module:factory. "
        "Formats are told from the content, not from the file name."
        " Give one of these; export other models with torch.export.save or to ONNX.",
    ),
    "RUB-READ-005": (
        "over a size limit",
        "A file, entry or header is larger than the limits in rubicc/frontend/limits.py. Real models stay "
        "far below them; a decompression bomb does not."
        " Check where the file comes from; fetch or save it again.",
    ),
    "RUB-READ-006": (
        "truncated or corrupt file",
        "The file ends early or its directory does not agree with its content. Fetch or save it again.",
    ),
    "RUB-READ-007": (
        "unsafe archive entry",
        "An entry of the archive escapes its folder, occurs twice, is encrypted or is compressed in a way "
        "PyTorch never writes. Save the model again with torch.save or torch.export.save.",
    ),
    "RUB-READ-008": (
        "the pickle wants code",
        "Unpickling this file would import and call the names listed. rubicc reads tensors only. Save the "
        "state dict (torch.save(model.state_dict(), path)) and give --arch, or open a file you trust "
        "with --trust.",
    ),
    "RUB-READ-009": (
        "TorchScript archive",
        "A TorchScript archive is a program, not data. Convert it where it was made with torch.export.save "
        "or torch.onnx.export, or open a file you trust with --trust.",
    ),
    "RUB-READ-010": (
        "pickled whole module",
        "The file was saved with torch.save(model). Save torch.save(model.state_dict(), path) instead and "
        "give --arch, or export with torch.export.save, or open a file you trust with --trust.",
    ),
    "RUB-READ-011": (
        "impossible tensor",
        "A tensor declares more elements than the file stores for it. Nothing was allocated. The file is "
        "damaged or hostile."
        " Fetch or save it again.",
    ),
    "RUB-READ-012": (
        "no state dict inside",
        "The file was read safely but holds no mapping from names to tensors. Save model.state_dict().",
    ),
    "RUB-READ-013": (
        "tensors do not fit the architecture",
        "Names or shapes differ from what the architecture needs. Check --arch and --arch-config; "
        "`rubicc models show NAME` lists what it expects.",
    ),
    "RUB-READ-014": (
        "NaN or infinite weights",
        "A network with such weights computes nothing useful and no comparison with it can pass. "
        "Use an earlier checkpoint of the training run.",
    ),
    "RUB-READ-015": (
        "malformed pickle",
        "The pickle uses instructions that PyTorch never writes or ends early. Nothing of it was executed."
        " Save the model again with torch.save.",
    ),
    "RUB-READ-016": (
        "malformed safetensors header",
        "The header of the file is not valid: its length, JSON, types or offsets contradict the file. "
        "Write it again with safetensors.torch.save_file.",
    ),
    "RUB-READ-017": (
        "tensor type not supported",
        "Only dense floating-point, integer and bool tensors are read. Save them dense and on the CPU.",
    ),
    "RUB-READ-020": (
        "entry not allowed in a .pt2",
        "An exported program holds program JSON, raw tensors and small version files. Compiled code, legacy "
        "pickles and extra files are refused because torch.export.load would execute or unpack them. "
        "Export again with torch.export.save.",
    ),
    "RUB-READ-021": (
        "pickled payload in a .pt2",
        "torch.export.load unpickles such weights without any restriction. Export again from plain tensors.",
    ),
    "RUB-READ-022": (
        "custom or opaque object in a .pt2",
        "Constants that are no tensors are pickles which run code when loaded. Remove custom classes from "
        "the module and export again.",
    ),
    "RUB-READ-023": (
        "operator not allowed in a .pt2",
        "torch.export.load resolves node targets by attribute look-up from torch, so a target can name any "
        "function. Only aten operators, arithmetic on sizes and scoped gradient modes are let through."
        " Export again with torch.export.save, with run_decompositions where the program holds other "
        "operators.",
    ),
    "RUB-READ-024": (
        "name, expression or tree not allowed in a .pt2",
        "torch.export.load evaluates size expressions, generates source from names and imports modules named "
        "in tree descriptions. Only plain identifiers, arithmetic and built-in containers are let through."
        " Export again with torch.export.save, with built-in containers as inputs and outputs.",
    ),
    "RUB-READ-025": (
        "malformed .pt2",
        "The program JSON is not what this PyTorch writes. Export again with the PyTorch installed here.",
    ),
    "RUB-READ-030": (
        "malformed rubicc checkpoint",
        "The file says it is a rubicc checkpoint but its version or metadata cannot be used. Save it again "
        "with rubicc.frontend.checkpoint.save.",
    ),
    "RUB-READ-031": (
        "architecture needed",
        "A bare state dict does not say which network it belongs to. Give --arch NAME; `rubicc models list` "
        "shows the names.",
    ),
    "RUB-READ-032": (
        "--arch contradicts the file",
        "The file names its own architecture. Leave --arch and --arch-config out.",
    ),
    "RUB-READ-033": (
        "impossible configuration",
        "The configuration holds a number or nesting far outside what a network can have."
        " Check the configuration, or --arch-config; `rubicc models show NAME` lists the defaults.",
    ),
    "RUB-READ-034": (
        "architecture not in the zoo",
        "A rubicc checkpoint names an architecture of the zoo, because that is how it is rebuilt. Register "
        "the architecture as a plugin (entry-point group rubicc.models) or save a .pt2 or ONNX file.",
    ),
    "RUB-READ-040": (
        "malformed Hugging Face folder",
        "config.json or the weight index is missing, too large or not valid. Use model.save_pretrained.",
    ),
    "RUB-READ-041": (
        "custom code in a Hugging Face folder",
        "The model needs Python code shipped with it (auto_map), which rubicc never runs. Give --arch NAME "
        "when the zoo has the architecture, or export the model with torch.export.save.",
    ),
    "RUB-READ-042": (
        "Hugging Face model type not supported",
        "Only the BERT family is read from a folder. Export other models with torch.export.save or to ONNX.",
    ),
    "RUB-READ-043": (
        "weights missing",
        "The folder has a configuration but no weights in a form that is read safely "
        "(model.safetensors, pytorch_model.bin, weights_N.tar)."
        " Put one of these into the folder.",
    ),
    "RUB-READ-050": (
        "malformed bonito configuration",
        "config.toml is not valid TOML or lacks what the model family needs."
        " Copy the folder again from where bonito wrote it.",
    ),
    "RUB-READ-051": (
        "bonito model family not supported",
        "The CTC (QuartzNet) and CRF (LSTM) families are read. Export other families with torch.export.save.",
    ),
    "RUB-READ-060": (
        "taiyaki network not supported",
        "The checkpoint is read, but its layers are not convolution, GRUs of alternating direction and a "
        "flip-flop head."
        " Export other networks with torch.export.save or torch.onnx.export.",
    ),
    "RUB-READ-070": (
        "code needs --allow-code",
        "python:pkg.module:factory imports and calls Python code. Give --allow-code if it is yours.",
    ),
    "RUB-READ-071": (
        "factory not found",
        "The form is python:pkg.module:factory; the module must be importable from the working folder or "
        "the environment, and the factory callable without arguments."
        " Check both names.",
    ),
    "RUB-READ-072": (
        "factory failed",
        "The factory raised, or returned something other than a torch.nn.Module (or that and its ModelMeta)."
        " Mend the factory; the message carries its own words.",
    ),
    "RUB-READ-080": (
        "link leaves the folder",
        "A file of the model folder is a symbolic link that points outside it. Copy the file there.",
    ),
    "RUB-READ-090": (
        "trusted load failed",
        "PyTorch itself could not open the file, even with --trust. Save it again where it was made.",
    ),
    "RUB-READ-D01": (
        "weights converted to float32",
        "The file holds floating-point weights in another type; the graph is built in float32 and lowered "
        "in precision later only by passes that say so.",
    ),
    "RUB-READ-D02": (
        "common prefix removed from tensor names",
        "Wrappers such as DataParallel put 'module.' in front of every name; it was removed to match.",
    ),
    "RUB-READ-D03": (
        "nested state dict used",
        "The file holds a training checkpoint; only its state dict was used.",
    ),
    "RUB-READ-D04": (
        "program neutralised before loading",
        "Extra files were left out or another device was replaced by the CPU. Example inputs, guard code and "
        "debugging metadata are always left out: torch.export.load would execute them.",
    ),
    "RUB-READ-D05": (
        "opened without restrictions",
        "--trust or --allow-code was given: the model could run any code on this machine.",
    ),
    "RUB-READ-D07": (
        "signal scaling assumed",
        "The configuration names no signal scaling; the one its own tool applies by default is taken.",
    ),
    "RUB-READ-D08": (
        "quality calibration of another decoder",
        "The folder's qscore scale and bias were fitted to the qualities of bonito's own decoder. They are "
        "taken over, and qualities are approximate until they are fitted again: see docs/qualities.md.",
    ),
    "RUB-READ-D06": (
        "unused tensors left out",
        "Tensors that do not influence the output (training counters, zero biases) were not carried over.",
    ),
    "RUB-LOW-001": (
        "torch cannot express the model as ONNX",
        "The exporter stopped. Data-dependent Python control flow, custom autograd functions and operators "
        "without an ONNX form are the usual causes; -vv prints torch's own message."
        " Change the module so that it holds tensor operations only, or export it yourself with "
        "torch.export.save or torch.onnx.export.",
    ),
    "RUB-LOW-002": (
        "inputs unknown",
        "The model carries no input description. Give one per input, in the order of forward(): "
        "--input x=Nx1xT:f32. Letters are symbolic dimensions.",
    ),
    "RUB-LOW-003": (
        "empty export",
        "Brevitas' QuantLSTM and QuantRNN export to an empty graph, or to an operator nothing executes, "
        "while reporting success. Keep recurrence in float and quantise it in the graph.",
    ),
    "RUB-LOW-004": (
        "recurrent program with a symbolic length",
        "torch's dynamo exporter bakes the traced length of recurrent layers into the graph. Export the .pt2 "
        "with static shapes, or give rubicc the checkpoint.",
    ),
    "RUB-LOW-005": (
        "input element type",
        "Inputs are float, integer or boolean tensors."
        " Convert others inside the module, and describe the input with --input NAME=SHAPE:TYPE.",
    ),
    "RUB-LOW-006": (
        "model does not run",
        "The model raised on example inputs of the declared form. Check names, order, shapes and element "
        "types of --input.",
    ),
    "RUB-LOW-007": (
        "--input contradicts the graph",
        "An ONNX file says what its inputs are called, their rank and their fixed dimensions. --input may "
        "rename symbols or give them numbers, nothing else; `rubicc inspect` shows the inputs.",
    ),
    "RUB-LOW-008": (
        "input too large to prove",
        "Every compilation runs the model on example inputs of the declared form. A fixed shape of more than "
        "16.7 million elements would take gigabytes of activations: keep the long axis symbolic.",
    ),
    "RUB-LOW-010": (
        "lowered graph differs from its source",
        "After export the graph is executed at two shapes and compared with torch. It differs, so no "
        "artefact is written. Python branches on lengths or values, which an exporter bakes in, are the "
        "usual cause."
        " Replace such branches by tensor operations, or give an exported program or ONNX file.",
    ),
    "RUB-LOW-D01": (
        "dynamo exporter used",
        "The module could not be traced, so torch's dynamo exporter was used instead.",
    ),
}
