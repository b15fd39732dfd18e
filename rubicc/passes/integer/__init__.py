"""From float networks to networks of integers whose scales are all powers of two."""
