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
    "RUB-SHRINK-004": (
        "The model's weights are not numbers",
        "A weight or a statistic of a norm is NaN or infinite, most often because a training diverged. What "
        "matters in such a network cannot be measured. Give an earlier checkpoint.",
    ),
    "RUB-SHRINK-005": (
        "An option that has no use without data",
        "A teacher and validation data are used in training and to measure, which needs --data. Give it, or "
        "leave the option out.",
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
    "RUB-SHRINK-040": (
        "A budget of latency that means nothing",
        "`--latency` is a time with its unit (5ms) or a share of what is predicted before anything is cut "
        "(50%), and one of --latency-table FILE and --target T says how it is predicted. Give both parts.",
    ),
    "RUB-SHRINK-041": (
        "The latency cannot be predicted",
        "The table of latencies has layers that the network lacks, or lacks the widths that a layer computes "
        "in; or the target has no model of its own. Change the table as the message says, or give one.",
    ),
    "RUB-SHRINK-042": (
        "The latency cannot be brought within the budget",
        "Even the largest cut is predicted to take longer; the message says how long. Raise the budget, or "
        "--most, which bounds what a layer may lose, and leave out --skip and --align.",
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
    "RUB-SHRINK-054": (
        "The model's schedule of skips cannot be read",
        "A network that `rubicc skipclip` made carries its schedule: which skips went, which are to go. This "
        "one is damaged. Give --anew to make another one from the skips that are there.",
    ),
    "RUB-SHRINK-070": (
        "Contradicting or impossible options of quantisation",
        "Weights have 2 to 8 bits, activations 8 or 32, a width for all excludes budgets, and a table of "
        "latencies needs its budget. Change the option named in the message; `rubicc quantize --help` lists "
        "them.",
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
    "RUB-SHRINK-073": (
        "The target keeps none of the widths asked for",
        "Every target says in which widths it keeps the weights and inputs of a layer; in others it would "
        "compute in floats. The message gives them. Choose other widths, another --granularity or another "
        "--target, or leave --target out.",
    ),
    "RUB-SHRINK-074": (
        "The identity asked for cannot be kept by rounding alone",
        "Even the widths of least divergence lose more on the validation data than --identity-loss allows, "
        "or may do so at 95 % confidence. Allow wider ones with --widths or a larger loss, or give more "
        "items, or a mean width and train.",
    ),
    "RUB-SHRINK-075": (
        "A network's outputs are not finite",
        "In float, or with a layer quantised, the outputs hold infinite values or NaN, so nothing can be "
        "compared. Check the weights and the data, or leave the layer named in the message out with --skip.",
    ),
    "RUB-SHRINK-076": (
        "A table of latencies that cannot be read",
        '`--latency-table FILE` holds seconds by layer and pair of widths as strict JSON: {"version": 1, '
        '"seconds": {"LAYER": {"w4a8": 0.0001}}}. The message says what is wrong; change it there.',
    ),
    "RUB-SHRINK-090": (
        "The recipe of a chain cannot be used",
        "A chain is `version: 1`, a model and a list of steps, `- prune: {macs: 50%}`, whose options are the "
        "flags of the verb. The message names file, step and key. Change it there; `rubicc init --chain` "
        "writes a recipe with everything explained.",
    ),
    "RUB-SHRINK-091": (
        "The output folder is not that of a chain",
        "A chain writes into a folder of its own, which holds chain.json. Choose another -o.",
    ),
    "RUB-SHRINK-092": (
        "Another chain is running in this folder",
        "The folder is locked by a run that is going on. Wait for it, or choose another -o.",
    ),
    "RUB-SHRINK-093": (
        "The record of a chain cannot be read",
        "chain.json says what each result was made of; it is damaged or of another version, so nothing can "
        "be reused. Restore it, or give --force to do every step again.",
    ),
    "RUB-SHRINK-094": (
        "The chain has no such step",
        "--from and --until take the name of a step, its folder or its number, --from no later than --until. "
        "Give one that the message lists, or that `rubicc chain RECIPE --dry-run` prints.",
    ),
    "RUB-SHRINK-095": (
        "A chain in several processes on devices of several kinds",
        "Under torchrun all steps of a chain that train do so on the same kind of device. Give one `device` "
        "under `training` at the top of the recipe, or run the chain without torchrun.",
    ),
    "RUB-SHRINK-D07": (
        "Quantisation looked at simulated signal",
        "No --data was given, so sensitivities and ranges come from the simulator, not from real signal.",
    ),
    "RUB-SHRINK-D10": (
        "Widths were chosen as the target takes them",
        "Widths asked for, or inputs in float, are none that the target keeps in these layers, for the "
        "reason given. The ones that it takes were used.",
    ),
    "RUB-SHRINK-D11": (
        "Layers stay in float",
        "The target, or inputs of 8 bits, have no quantised form for these layers.",
    ),
    "RUB-SHRINK-D12": (
        "The model's own quantisers were kept",
        "The model came quantised, in part or whole. What it quantises itself, with its widths and scales, "
        "stays as it is; only weights in float were quantised.",
    ),
    "RUB-SHRINK-D13": (
        "Trained weights were left",
        "Training lost more identity than --identity-loss allows, so the result holds the network as it was "
        "before training. Train longer, with a smaller rate, or on more data.",
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
    "RUB-SHRINK-D40": (
        "Layers count as nothing in a predicted latency",
        "The table of latencies has no rows for them, so that their time is neither in the budget nor in the "
        "figures. Add rows for all layers that multiply.",
    ),
    "RUB-SHRINK-D41": (
        "A latency was predicted on inputs that were made up",
        "The target's own model wants a network with known ranges of values. They came from simulated signal "
        "or drawn numbers; only shapes and widths decide how long the network takes.",
    ),
    "RUB-SHRINK-D50": (
        "The model's own schedule of skips was gone on with",
        "An earlier run removed some of its skips. Stages are counted on, and stride and order that were not "
        "given are those of that run. Give --anew, --stride or --order for others.",
    ),
    "RUB-SHRINK-D06": (
        "A skip was removed, not folded",
        "Folding was asked for where it is exact. Here it is not, for the reason given, so the skip was "
        "removed and what it carried is lost. Use skip.fold alone to leave such skips as they are.",
    ),
}
