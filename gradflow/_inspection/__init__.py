"""`check` and `summary`: what is wrong with a transformation, and what its state keeps."""
