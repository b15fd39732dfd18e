"""Which operations can run on the Neural Engine, by rules that name their sources."""
