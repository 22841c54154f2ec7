"""Transformations: the pair and its stage, and how it is built, called, composed and applied."""
