"""Codes of the compile driver."""

CODES: dict[str, tuple[str, str]] = {
    "RUB-DRV-001": (
        "artefact differs from its source",
        "The emitted files were read back from disk, executed, and compared with the source network. The gap "
        "is larger than allowed, so nothing was written. --max-gap sets the limit."
        " Compile again with --check to see whether a pass is to blame, choose a higher --precision, or "
        "allow a larger gap.",
    ),
    "RUB-DRV-002": (
        "unknown stage",
        "--from-stage and --until-stage name a stage of the pipeline: `lower`, a pass id, or its number. "
        "The message lists those that exist."
        " Use one of those.",
    ),
    "RUB-DRV-003": (
        "a decision under --strict",
        "With --strict every Decision (a changed precision, a replaced operator, a measured choice) is an "
        "error. The table lists them; choose each explicitly or compile without --strict.",
    ),
    "RUB-DRV-004": (
        "stages cannot be resumed",
        "--from-stage continues from stages/ inside the existing artefact, which must come from the same "
        "model and the same version of rubicc, and must have been compiled with --dump-stages."
        " Compile again without --from-stage, with --dump-stages.",
    ),
    "RUB-DRV-005": (
        "budget exceeded",
        "The artefact is larger, or slower on this machine, than --budget allows."
        " Raise the budget, choose another --runtime or --precision, or shrink the model.",
    ),
    "RUB-DRV-006": (
        "reference or calibration data unreadable",
        "--reference and --calib take reads (fast5, pod5, npz), a folder of them, a bonito chunk folder or "
        "chunks.npy, or an .npz with one array per model input."
        " Give one of these.",
    ),
    "RUB-DRV-007": (
        "not a runnable artefact",
        "The folder holds no artefact, or one whose compilation stopped at --until-stage."
        " Compile the model again, without --until-stage.",
    ),
    "RUB-DRV-008": (
        "not a basecaller",
        "basecall needs a model whose metadata says how signal becomes input and output becomes bases."
        " Compile it from a checkpoint of a basecaller; `rubicc models list` shows those of the zoo.",
    ),
    "RUB-DRV-009": (
        "demo folder holds something else",
        "`rubicc demo` writes artefact/ and calls.fastq and will not mix them with other files. Give a new "
        "or empty folder.",
    ),
    "RUB-DRV-010": (
        "folder cannot be written",
        "The demo's folder could not be made. Check the path and its permissions.",
    ),
    "RUB-DRV-011": (
        "identity of something that calls no bases",
        "--max-gap identity compares the bases called by artefact and source, so the model must be a "
        "basecaller. Use snr or max_abs for others.",
    ),
    "RUB-DRV-012": (
        "Ray is not installed",
        "--engine ray calls the files of a run as tasks of Ray, which is an extra. Install it on every "
        "machine: pip install 'rubicc[ray]'. Without it use --engine local.",
    ),
    "RUB-DRV-013": (
        "the Ray cluster cannot be used",
        "Ray could not be started on this machine, or no cluster answers at --ray-address. Check the address "
        "that `ray start --head` printed, and that all machines have the same versions of Ray and Python.",
    ),
    "RUB-DRV-014": (
        "a task was lost too often",
        "The worker that called this file died again and again, as when memory runs out. Check the machine, "
        "then run the same command again: files that are called are not called again.",
    ),
    "RUB-DRV-015": (
        "a worker sees another artefact",
        "The folder of the artefact holds something else on the worker's machine. Put artefact, reads and "
        "output in a folder that all machines share under the same path.",
    ),
    "RUB-DRV-016": (
        "shapes for a target that takes them all",
        "--shapes gives numbers to inputs of targets that need them, such as coreml. The target given runs "
        "every shape the network runs. Leave --shapes out; --input fixes shapes for any target.",
    ),
    "RUB-DRV-017": (
        "latency cannot be measured here",
        "--budget latency is measured on the machine that compiles, and the target runs on another "
        "one. Leave it out and measure on the device; for Core ML ane_audit.py in the artefact does so.",
    ),
    "RUB-DRV-018": (
        "an audit or a page without the file it is about",
        "--audit sets what a device has measured beside the rules for one emitted file, --page draws that, "
        "and MODEL is no such file of the target. Give the file, for example Name.mlpackage with --target "
        "coreml.",
    ),
    "RUB-DRV-019": (
        "facts of a device for a target that has no table of devices",
        "--device-fact gives numbers that a target's table of devices does not know, such as those of the AI "
        "Engine. The target given takes none. Leave it out.",
    ),
    "RUB-DRV-D01": (
        "chosen by measurement",
        "Precision, runtime or layout was left to `auto` and measured on this machine. recipe.yaml records "
        "the choice; --precision, --runtime and --layout make it without measuring, --tune 0 by rule.",
    ),
    "RUB-DRV-D02": (
        "latency budget in doubt",
        "The measured spread of the latency straddles the budget, so it is neither met nor exceeded.",
    ),
    "RUB-DRV-D03": (
        "calibrated without data",
        "Quantisation after training takes the ranges of values from data. Without --calib it takes them "
        "from rubicc's own simulated signal, or from the inputs of the proof where the model is no "
        "basecaller. Real signal of the kind that will be called is better.",
    ),
}
