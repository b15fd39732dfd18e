"""Clean-up passes: rewrites every target wants, none of which changes what the network computes."""
