"""Expressions: the call that made a value, as data that prints, compares, pickles and can be edited."""
