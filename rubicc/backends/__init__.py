"""Targets. Each backend has the same rooms: check, plan, emit, run, report."""
