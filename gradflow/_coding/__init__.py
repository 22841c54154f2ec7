"""Leaves of a state in fewer bits: codes, scales of blocks, stochastic rounding."""
