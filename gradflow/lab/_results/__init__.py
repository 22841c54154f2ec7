"""The results of experiments: plain data, without code that draws."""
