from __future__ import annotations
def best_phases(g, formulation, quantised):
    return 4 if g.inputs<=16 and g.taps>=(19 if quantised else 10) else 1
