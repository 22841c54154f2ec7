"""The optimizers of an experiment: names, expressions from text, grids and search spaces."""
