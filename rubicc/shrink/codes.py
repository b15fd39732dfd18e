"""Catalogue of RUB-SHRINK codes: the verbs that change networks."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-SHRINK-001": (
        "The model cannot be trained as it is",
        "It does not say what it is: inputs and outputs, for basecallers stride, alphabet and decoder, "
        "stand in a rubicc checkpoint or an ONNX file that rubicc wrote. Save it as one (`rubicc models "
        "create`), or give --arch.",
    ),
    "RUB-SHRINK-002": (
        "Another process is training into this folder",
        "The folder OUT.partial is locked by a run that is going on. Wait for it, or choose another -o.",
    ),
    "RUB-SHRINK-003": (
        "A settings file that cannot be used",
        "`--settings FILE.yaml` holds settings of `rubicc train` by name, such as `lr: 0.002`. The message "
        "names the key or value. Change it; `rubicc train --help` lists the settings.",
    ),
    "RUB-SHRINK-030": (
        "Nothing could be cut",
        "No channel and no weight of the network may go as asked: all are coupled to inputs or outputs, "
        "skipped, or smaller than one step of the alignment. The message says why the first layers stay. "
        "Run `rubicc prune MODEL --list` for the groups that may go, and allow more.",
    ),
    "RUB-SHRINK-031": (
        "Contradicting or impossible pruning options",
        "Shares are at least 0 and below 1, one budget at a time, and rounds need budgets as shares. "
        "Change the option named in the message; `rubicc prune --help` lists them.",
    ),
    "RUB-SHRINK-032": (
        "Importance that is measured needs data",
        "Taylor importance and movement come from gradients on training data. Give --data (and --teacher "
        "where it says no bases), or choose by magnitude: --importance l2, --weights l1.",
    ),
    "RUB-SHRINK-050": (
        "No skip to remove",
        "The network has no residual connection, all of them are kept, or those it has cannot go; the "
        "message says why. Run `rubicc skipclip MODEL --list` for what was found.",
    ),
    "RUB-SHRINK-051": (
        "Contradicting or impossible settings of skip removal",
        "Stages hold at least one skip and one step each; measuring importance and re-calibration need "
        "--data. Change the option named in the message; `rubicc skipclip --help` lists them.",
    ),
    "RUB-SHRINK-052": (
        "An unfinished schedule of another kind lies in OUT.partial",
        "A run removes skips in the order it began with. Run the first command again to finish it, give "
        "--force to start over, or choose another -o.",
    ),
    "RUB-SHRINK-053": (
        "The schedule of an unfinished run cannot be read",
        "OUT.partial/schedule.json is damaged. Give --force to start over, or choose another -o.",
    ),
    "RUB-SHRINK-070": (
        "Contradicting or impossible options of quantisation",
        "Weights have 2 to 8 bits, activations 8 or 32, and a width for all excludes budgets. Change the "
        "option named in the message; `rubicc quantize --help` lists them.",
    ),
    "RUB-SHRINK-071": (
        "Quantisation needs to see data",
        "Widths by layer and ranges of activations come from what the network computes on data. Give --data; "
        "only basecallers can do with simulated signal.",
    ),
    "RUB-SHRINK-072": (
        "No such layer to quantise",
        "Layers are named as their nodes, and have weights in float. Choose names that the message lists, or "
        "from `rubicc inspect MODEL --nodes`.",
    ),
    "RUB-SHRINK-D07": (
        "Quantisation looked at simulated signal",
        "No --data was given, so sensitivities and ranges come from the simulator, not from real signal.",
    ),
    "RUB-SHRINK-D01": (
        "A network with random weights was made",
        "MODEL was the name of an architecture of the zoo, so training starts from random weights drawn "
        "from the seed.",
    ),
    "RUB-SHRINK-D02": (
        "Identity is to the teacher's calls",
        "The data hold no reference bases. Validation compares the student's calls with the teacher's, "
        "which says how well it imitates, not how right it is.",
    ),
    "RUB-SHRINK-D03": (
        "Nothing was held out",
        "There was too little data to keep some for validation, and --validation was not given. The weights "
        "of the last step are kept and no identity is reported.",
    ),
    "RUB-SHRINK-D04": (
        "The student learns the teacher's bases, not its scores",
        "Stride, decoder or alphabet of the two differ, so that scores cannot be compared frame by frame.",
    ),
    "RUB-SHRINK-D05": (
        "The checkpoint holds the graph",
        "No architecture of the zoo describes the network any more, so checkpoint.pt carries its graph and "
        "tensors; rubicc reads it like any other.",
    ),
    "RUB-SHRINK-D30": (
        "The first cut was by magnitude",
        "Single weights go by movement, which is measured in the training between two cuts. Before the first "
        "cut there was none, so it took the smallest weights. Give --movement-steps to train for it.",
    ),
    "RUB-SHRINK-D31": (
        "Importance was measured by the loss of bases and labels",
        "The network is trained by distillation, whose gradient is near 0 where it is still much like its "
        "teacher. What matters was measured by the bases in the data, or the teacher's calls, instead.",
    ),
    "RUB-SHRINK-D06": (
        "A skip was removed, not folded",
        "Folding was asked for where it is exact. Here it is not, for the reason given, so the skip was "
        "removed and what it carried is lost. Use skip.fold alone to leave such skips as they are.",
    ),
}
