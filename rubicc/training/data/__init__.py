"""Training data: endless seeded streams of items, from files that need not fit in memory."""
