"""A loss and any optimizer: one step, and a whole solve."""
