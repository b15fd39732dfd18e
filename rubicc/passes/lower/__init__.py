"""Lowering passes: towards what a runtime can execute (no Quant nodes, half precision)."""
