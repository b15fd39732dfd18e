"""If, Loop and Scan over nested graphs."""

from __future__ import annotations

import numpy as np

from rubicc.ir.ops.registry import Array, Call, KernelError, Result, kernel


@kernel("If")
def if_op(call: Call) -> Result:
    """Run one of two branches."""
    branch = "then_branch" if bool(call[0].reshape(-1)[0]) else "else_branch"
    return call.run_body(call.attr(branch), [])


@kernel("Loop")
def loop(call: Call) -> Result:
    """Bounded or conditional loop with carried values and stacked scan outputs."""
    trips, condition = call.get(0), call.get(1)
    carried: list[Array] = [call[i] for i in range(2, len(call.inputs))]
    go = condition is None or bool(condition.reshape(-1)[0])
    collected: list[list[Array]] = [[] for _ in range(len(call.node.outputs) - len(carried))]
    step = 0
    while go and (trips is None or step < int(trips.reshape(-1)[0])):
        out = call.run_body(call.attr("body"), [np.asarray(step, np.int64), np.asarray(True), *carried])
        go, carried = bool(out[0].reshape(-1)[0]), out[1 : 1 + len(carried)]
        for rows, value in zip(collected, out[1 + len(carried) :], strict=True):
            rows.append(value)
        step += 1
    if any(not rows for rows in collected):
        raise KernelError("Loop with scan outputs ran zero times")
    return [*carried, *(np.stack(rows) for rows in collected)]


@kernel("Scan")
def scan(call: Call) -> Result:
    """Scan over the leading axis of its scan inputs, each forward or backward (default axes only)."""
    for name in ("scan_input_axes", "scan_output_axes"):
        if any(call.attr(name) or ()):
            raise KernelError(f"Scan with {name} is not implemented")
    count = call.attr("num_scan_inputs")
    split = len(call.inputs) - count
    state = [call[i] for i in range(split)]
    turned = call.attr("scan_input_directions") or [0] * count
    sequences = [call[split + i][:: -1 if turned[i] else 1] for i in range(count)]
    collected: list[list[Array]] = [[] for _ in range(len(call.node.outputs) - split)]
    for t in range(sequences[0].shape[0]):
        out = call.run_body(call.attr("body"), [*state, *(s[t] for s in sequences)])
        state = out[:split]
        for rows, value in zip(collected, out[split:], strict=True):
            rows.append(value)
    if any(not rows for rows in collected):
        raise KernelError("Scan over an empty sequence")
    prepended = call.attr("scan_output_directions") or [0] * len(collected)
    ends = (rows[:: -1 if back else 1] for rows, back in zip(collected, prepended, strict=True))
    return [*state, *(np.stack(rows) for rows in ends)]
