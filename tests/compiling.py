"""How tests compile: their own programs cheaply, and some as users have them; see `tests/conftest.py`."""

from importlib.metadata import version

# jaxlib 0.11 lost the older emitter; a process ends at a flag that XLA does not know.
HAS_OLDER_EMITTER = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)

CHEAP = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
OPTIMIZED: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
if HAS_OLDER_EMITTER:
    CHEAP += " --xla_cpu_use_fusion_emitters=false"
    OPTIMIZED["xla_cpu_use_fusion_emitters"] = True
