"""The kit for writing a rule: leafwise, mathematics, counters and moments, mesh axes, scaled norms."""
