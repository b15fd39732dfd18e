"""The compile driver: read, lower, rewrite, plan, emit, read back, run, compare, report."""
