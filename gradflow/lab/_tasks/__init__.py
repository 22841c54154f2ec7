"""What is trained: small models on real data, and functions of two variables."""
