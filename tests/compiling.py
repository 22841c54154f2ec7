"""How a test asks for programs that are compiled as users have them; see `tests/conftest.py`."""

OPTIMIZED: dict[str, int | bool] = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
