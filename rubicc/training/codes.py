"""Catalogue of RUB-TRAIN codes: code -> (title, explanation with remedy)."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-TRAIN-001": (
        "operator without a trainable form",
        "The graph cannot be made a torch module: it has operators no gradient passes through here, such as "
        "Loop, Scan and If with nested graphs, and integer products. The message lists all of them. Run the "
        "cleanup passes first, which fold what hangs on constants; write loops as GRU, LSTM or RNN, and "
        "train before a pass has made integer kernels.",
    ),
    "RUB-TRAIN-002": (
        "a node cannot run in the trainable twin",
        "A node does not fit the shapes that reached it, or asks for a shape that hangs on data, which is "
        "not known before training. The message names the node and the module it came from. Check with "
        "`rubicc verify` that the graph runs at this shape; run the cleanup passes.",
    ),
    "RUB-TRAIN-003": (
        "inputs do not fit the graph",
        "The tensors given do not match the graph's inputs in name, rank, fixed dimension or type. Give one "
        "tensor per input; `rubicc inspect MODEL` prints them.",
    ),
    "RUB-TRAIN-004": (
        "no such intermediate value",
        "Intermediate values, such as features for distillation, are asked for by the name of a node's "
        "output, and the graph has none of that name. Names change when passes rewrite the graph: take them "
        "from the graph that is trained.",
    ),
    "RUB-TRAIN-D01": (
        "equal tensors of several modules are trained apart",
        "The graph stores one tensor, whose elements are all equal, for several modules: exporters and "
        "deduplication keep equal tensors once, as the zero biases of a fresh network. Training gives each "
        "module a copy of its own, as its source has; the written graph has them apart where they differ.",
    ),
    "RUB-TRAIN-020": (
        "No loss for this network's output",
        "Losses are chosen by the model's metadata: CTC for any alphabet, flip-flop and CRF for four bases. "
        "The network says no alphabet, or one its loss is not written for. Give the metadata, or train a "
        "network with a CTC head.",
    ),
    "RUB-TRAIN-021": (
        "Student and teacher scores differ in shape",
        "Distillation compares scores frame by frame and class by class. Give a student with the teacher's "
        "stride and alphabet, or `--labels calls`, which trains on the bases the teacher calls.",
    ),
    "RUB-TRAIN-022": (
        "Features that cannot be compared",
        "`--feature STUDENT=TEACHER` names layers of the two networks by module path (by value name in ONNX "
        "graphs). The layer does not exist, or does not give frames of channels at the network's output "
        "rate. Choose a layer after the last stride.",
    ),
    "RUB-TRAIN-023": (
        "Impossible augmentation",
        "Stretch is a share from 0 up to 1 and the other amounts are not negative. Change the amounts, or "
        "give --augment off.",
    ),
    "RUB-TRAIN-024": (
        "A training setting that cannot work",
        "The message names the setting, its value and the rule. Give another value; `rubicc train --help` "
        "lists all of them with their defaults.",
    ),
    "RUB-TRAIN-025": (
        "The teacher's scores are no target for this student",
        "Stride, decoder or alphabet of the two networks differ, so their scores cannot be compared frame "
        "by frame. Give --labels calls to train on the bases that the teacher calls, or choose another "
        "student or teacher.",
    ),
    "RUB-TRAIN-026": (
        "Nothing to learn from",
        "The data hold no bases or labels, and no teacher was given. Give --teacher, or data with bases.",
    ),
    "RUB-TRAIN-030": (
        "Damaged training data",
        "Arrays of a training folder or file are missing, damaged, or do not fit each other. Write them "
        "again: chunks (N, samples) floats, references (N, bases) and reference_lengths (N,) whole numbers; "
        "an .npz holds one array per input with one row per example.",
    ),
    "RUB-TRAIN-031": (
        "No usable training data",
        "After damaged, too short or unlearnable items were left out, nothing is left. Check the path and "
        "the sampling rate, and give a smaller --chunk where reads are short.",
    ),
    "RUB-TRAIN-032": (
        "Bases that the network has no letter for",
        "The alphabet of the data is not that of the network, or codes are not those of the format. Give "
        "data or a network of the other alphabet, or convert the references.",
    ),
    "RUB-TRAIN-033": (
        "Data of a form that this run cannot use",
        "Data are a bonito chunk folder, mapped-signal files (taiyaki HDF5, npz), raw reads with --teacher, "
        "an .npz with one array per input, or the word simulated. Check the path; give a teacher for raw "
        "reads.",
    ),
    "RUB-TRAIN-040": (
        "Loss or gradient is not finite",
        "Training has diverged, or the data hold NaN. The last state is kept. Give a smaller --lr, a longer "
        "--warmup or a smaller --clip, leave --bf16 out, and check the data; then run it again with "
        "--force.",
    ),
    "RUB-TRAIN-041": (
        "The state of a run cannot be written",
        "The disk is full or does not take files. The older state is as it was. Free some space; run the "
        "same command again: it goes on at the last state.",
    ),
    "RUB-TRAIN-042": (
        "An unfinished run of another kind lies here",
        "The folder OUT.partial holds a run with another model, other data or other settings. Run its "
        "command again to finish it, give --force to start over, or choose another -o.",
    ),
    "RUB-TRAIN-043": (
        "The state of an unfinished run is damaged",
        "The state file cannot be read. Give --force to start again; the logs beside it say how far it was.",
    ),
    "RUB-TRAIN-050": (
        "accelerate is not installed",
        "Several processes (torchrun) share the work through Hugging Face accelerate. Install it: pip "
        "install 'rubicc[train-distributed]', or run one process.",
    ),
    "RUB-TRAIN-051": (
        "No usable GPU",
        "--device cuda was given and PyTorch finds none. Leave --device out, or install a PyTorch build for "
        "the GPU.",
    ),
    "RUB-TRAIN-052": (
        "Another process has ended",
        "One of the processes that torchrun started has failed, or cannot be reached over the network, and "
        "the others end with it. Mend what that one says, then run the same command again: it goes on at "
        "the last state.",
    ),
    "RUB-TRAIN-D20": (
        "Chunks were left out",
        "Their bases need more frames than the network gives for a chunk, or they have none; no loss could "
        "be taken of them.",
    ),
    "RUB-TRAIN-D21": (
        "Reads were left out",
        "Files or reads could not be read, or are sampled at another rate than the network was made for. "
        "The log names them.",
    ),
}
