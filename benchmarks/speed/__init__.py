"""The speed tables: networks, engines, timing in turns, verdicts. Used by cpu_table.py and gpu_table.py."""
