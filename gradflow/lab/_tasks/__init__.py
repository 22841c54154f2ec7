"""Training problems: small models on real data, and functions of two variables."""
