"""``rubicc init``: a commented recipe to start from, of a compilation or of a chain."""

from __future__ import annotations

import argparse

from rubicc.cli.console import Console

RECIPE = """\
# A rubicc recipe. Use it with: rubicc compile MODEL --recipe FILE.yaml -o OUT
# Every line is optional but the version. A flag overrides RUBICC_* in the environment, which overrides this
# file, which overrides the defaults shown; `--print-config` prints each value with where it came from.
version: 1

# cpu, gpu; see `rubicc targets`
target: cpu

# Inputs, where the model does not say: NAME: SHAPE:DTYPE, with symbols for what varies.
# inputs:
#   x: Nx1xT:f32

# For targets whose inputs have fixed or bounded shapes (coreml): fixed, enumerated, range, or shapes.
# shapes: x=1x1x2000,1x1x4000

# Architecture of a bare state dict; see `rubicc models list`.
# arch: taiyaki-mgru
# arch_config:
#   KEY: VALUE

# fp32, fp16, bf16, int8, mixed (int8 where it costs little), auto (the fastest that is accurate enough)
precision: fp32

# auto measures here and records its choice; what is named is not measured.
# runtime: onnxruntime, openvino, native; layout: plain, polyphase.
runtime: auto
layout: auto
# threads: 2
# batch: 32         # items in flight at once
# streams: 2        # calls at once that the batch is cut into
objective: throughput   # or latency
tune: 3s                # measuring in all; 0 measures nothing

# Files, relative to this one: data for calibration, and real data for the verification.
# calib: calib.npz
# reference: reference.npz

# Refuse the artefact (exit code 5) when it differs more than this from the source.
# max_gap:
#   snr: 30dB          # every output at least
#   max_abs: 1.0e-4    # any value at most
#   identity: 0.5      # loss of read identity, percentage points at most

# Refuse the artefact (exit code 6) when it is bigger or slower than this.
# budget:
#   size: 2MiB
#   latency: 5ms

# Numbers of the device that the table of an AI Engine target does not know.
# device_facts:
#   memory_tile_rows: 1

# Options of passes by id; see `rubicc passes list` and `rubicc passes show ID`.
# passes:
#   cleanup.fold-constants:
#     max_bytes: 1048576

seed: 0

# true: any decision rubicc would take for you is an error.
strict: false

# true: verify the graph's rules after every pass.
check: false

# true: write the graph after every pass into stages/.
dump_stages: false
"""

CHAIN = """\
# The recipe of a chain. Use it with: rubicc chain FILE.yaml -o OUT
# Each step works on what the one before has made; what is done and has not changed is reused.
# Options of a step are the flags of its verb (`rubicc prune --help`); - and _ mean the same in them.
# Paths are relative to this file.
version: 1

# Any MODEL form, or the name of an architecture of the zoo. For a bare state dict: arch, arch_config, input.
model: model.pt
# arch: taiyaki-mgru
# arch_config: config.yaml
# input: [x=Nx1xT:f32]

# Shared by all steps but compile; a step may say otherwise, or null for none.
# data: chunks            # or several: [first.npz, second.npz]; or: simulated
# teacher: model.pt
# teacher_arch: NAME      # of a bare state dict
# validation: chunks/validation

# Flags of the training, shared as well; see `rubicc train --help`.
training:
  batch: 16
  # lr: 0.002
  # augment: off

steps:
  - skipclip:
      # steps: 4000       # of the training; without data nothing is trained
      stride: 2
  - prune:
      name: half          # of the folder: 2-half; without it the verb
      macs: 50%
      # share: {gru.*: 75%}
  # - train: {steps: 2000}
  - quantize:
      # weights_mean_bits: 5.5
      bits: 8
  # Last, or not at all.
  - compile:
      target: cpu
      # precision: int8
      # max_gap: {snr: 30dB}
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--chain", action="store_true", help="a recipe of `rubicc chain`, not of compile")
    parser.add_argument("-o", "--output", metavar="FILE.yaml", help="write here instead of stdout")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the recipe to a file or stdout."""
    recipe = CHAIN if args.chain else RECIPE
    if args.output is None:
        console.result({"recipe": recipe}, recipe.rstrip("\n"))
        return 0
    from rubicc.evidence.staging import StagedFile

    with StagedFile(args.output, force=args.force, mode="w") as file:
        file.write(recipe)
    console.result({"path": args.output}, f"wrote {args.output}")
    return 0
