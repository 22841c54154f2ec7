"""What experiments return: plain data, which knows nothing of pictures."""
