"""`check` and `summary`: likely mistakes in a transformation, and the size of its state."""
