"""Devices that XLA compiles for without having them."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 1 } runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Platform(NamedTuple):
    """A described device: the modules that compile for it, its topology, and its compiler's options."""

    title: str
    modules: Mapping[str, str]  # module: the wheel that has it
    extra: str
    topology: Mapping[str, Any]
    environment: Mapping[str, str]
    options: Mapping[str, Any]


PLATFORMS: Mapping[str, Platform] = {
    "h100": Platform(
        "NVIDIA H100",
        {"jax_plugins.xla_cuda12": "jax-cuda12-pjrt", "jax_cuda12_plugin": "jax-cuda12-plugin",
         "nvidia.cuda_nvcc": "nvidia-cuda-nvcc-cu12"},
        "aot-gpu",
        {"platform": "cuda", "topology_name": "1x1x1", "topology": "1x1x1", "target_config": H100},
        {},
        {"xla_gpu_autotune_level": 0},
    ),
    "v5e": Platform(
        "TPU v5e",
        {"libtpu": "libtpu"},
        "aot-tpu",
        {"platform": "tpu", "topology_name": "v5e:2x4"},
        {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8",
         "TPU_WORKER_HOSTNAMES": "localhost",
         "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"},  # it only compiles, so other processes may, too
        {},
    ),
}  # fmt: skip


def missing(platform: str) -> str | None:
    """Why nothing can be compiled for a platform; None where it can."""
    if platform not in PLATFORMS:
        return f"no platform is called '{platform}'; the known ones are {', '.join(PLATFORMS)}"
    wheels = [wheel for module, wheel in PLATFORMS[platform].modules.items() if not _found(module)]
    if not wheels:
        return None
    extra = PLATFORMS[platform].extra
    return f"{platform} needs {', '.join(wheels)}: pip install 'gradflow-jax[{extra}]'"


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class Compiler:
    """Compiles steps for one device of a platform."""

    def __init__(self, platform: str) -> None:
        from jax.experimental import topologies

        if why := missing(platform):
            raise SystemExit(why)
        self.platform, described = platform, PLATFORMS[platform]
        os.environ.update(described.environment)
        devices = topologies.get_topology_desc(**described.topology).devices
        mesh = jax.sharding.Mesh(np.array(devices[:1]), ("device",))
        self.sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self.options = dict(described.options)

    def placed(self, like: Any) -> Any:
        """The shapes of a tree, on the device."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding), like)

    def lower(self, step: Callable[..., Any], *like: Any) -> Any:
        """A step of parameters, state and further arguments; the first two are donated."""
        return jax.jit(step, donate_argnums=(0, 1)).lower(*self.placed(like))

    def compile(self, lowered: Any) -> Any:
        """The program of a lowered step."""
        return lowered.compile(compiler_options=self.options)
