"""Training in several processes of one machine, which a parent starts, watches and ends."""
