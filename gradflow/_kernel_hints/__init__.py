"""Values returned as they are, with hints to XLA on its kernels: their order, their size, their place."""
