"""A call of a stage: which stage runs, checks of its trees, extra arguments, hints, reports."""
