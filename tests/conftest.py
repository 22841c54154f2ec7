"""Every test runs with strict dtypes, no silent broadcasting, and eight fake devices.

Most of the tests' time is XLA compiling small programs, so LLVM does not optimize them, and the older emitter
of loops writes them, which takes a fifth of the newer one's time. The laws' shared programs ask for what
users get (`compiling.OPTIMIZED`).
"""

import gc
import os
import shutil
import tempfile

from compiling import CHEAP

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        # XLA's compiler for a GPU supports no program that is not optimized.
        CHEAP if os.environ["JAX_PLATFORMS"] == "cpu" else "",
    )
).strip()

from pathlib import Path
from typing import Any

import jax
import pytest
from shared_programs import share_contexts, share_programs

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
share_contexts()

# A compiled program maps some memory, and Linux allows a process 65530 mappings by default.
_MAPS = Path("/proc/self/maps")
_MOST_MAPPINGS = 45_000
_ran = 0
_PROGRAMS = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """The processes of a run share a directory of compiled programs, which goes with the run."""
    if hasattr(config, "workerinput"):
        share_programs(Path(config.workerinput["programs"]))
    else:
        config.stash[_PROGRAMS] = tempfile.mkdtemp(prefix="programs-")
        config.add_cleanup(lambda: shutil.rmtree(config.stash[_PROGRAMS], ignore_errors=True))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Gives each process of the run the path of the directory."""
    node.workerinput["programs"] = node.config.stash[_PROGRAMS]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that no worker waits for another's at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    keep()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Lets go of compiled programs before there are too many of them."""
    global _ran
    _ran += 1
    if _ran % 50:
        return
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.unfreeze()
    elif _ran % 2000 == 0:
        gc.unfreeze()  # what stayed for a while may be garbage by now
    keep()


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest) -> None:
    """A test draws the same numbers from its file's `RNG` whichever tests ran before it in the process."""
    draws = getattr(request.module, "RNG", None)
    if draws is not None:
        kept = vars(request.module).setdefault("_state_of_RNG", draws.bit_generator.state)
        draws.bit_generator.state = kept


def keep() -> None:
    """What was imported and compiled stays: searching it for garbage again takes a tenth of the time."""
    gc.collect()
    gc.freeze()
