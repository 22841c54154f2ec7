"""Steps compiled for an H100 and a TPU v5e that are not there, gradflow beside Optax.

XLA compiles ahead of time for a described device, so nothing here runs and nothing is timed. The figures
come from the compilers themselves: scratch memory, kernels, copies, library calls, the bytes that the
kernels read and write, and on a TPU the compiler's estimate of cycles. They compare programs; they do not
replace a measurement.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform as python_platform
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow as gf
from benchmarks import steps
from benchmarks.exact import nbytes, scratch
from benchmarks.hlo import Cost, cost, held
from benchmarks.programs import shapes

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


def outer(tx: Any, apply: Any, extra: Mapping[str, Any]) -> Callable[..., Any]:
    """A step whose gradients come from outside and are scaled here, as loss scaling does.

    The product belongs to whatever reads the gradient: it costs nothing, unless a program writes it out.
    """

    def step(params: Any, state: Any, grads: Any, scale: Any) -> Any:
        grads = jax.tree.map(lambda g: scale.astype(g.dtype) * g, grads)
        updates, state = tx.update(grads, state, params, **extra)
        return apply(params, updates), state

    return step


def network(tx: Any, apply: Any, extra: Mapping[str, Any]) -> Callable[..., Any]:
    """A step that makes its gradients: those of a network whose layers are the leaves."""

    def loss(params: Any, batch: Any) -> Any:
        for weights in jax.tree.leaves(params):
            batch = batch + jnp.tanh(batch @ weights)
        return jnp.mean(jnp.square(batch.astype(jnp.float32)))

    def step(params: Any, state: Any, batch: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params, **extra)
        return apply(params, updates), state

    return step


SIDE, LEAVES = 1024, 8
RESULTS = Path(__file__).parent / "results"


def _matrices(dtype: Any = jnp.float32) -> Any:
    return shapes(LEAVES, SIDE * SIDE, dtype)


def transformer(layers: int = 24, width: int = 256, vocabulary: int = 2048) -> Any:
    """The shapes of a small decoder: 195 leaves, from a bias to the embedding."""

    def of(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    layer = {
        "qkv": of(width, 3 * width), "out": of(width, width), "up": of(width, 4 * width),
        "up_bias": of(4 * width), "down": of(4 * width, width), "down_bias": of(width),
        "before_attention": of(width), "before_mlp": of(width),
    }  # fmt: skip
    return {
        "embedding": of(vocabulary, width),
        "layers": [layer for _ in range(layers)],
        "norm": of(width),
        "head": of(width, vocabulary),
    }


def _around(wrap: str, *arguments: Any, inner: Callable[[Any], Any] = lambda of: of.adamw(1e-3)) -> Any:
    """A wrapper of both libraries around the same transformation."""
    wrappers = getattr(optax, wrap, None) or getattr(optax.contrib, wrap)
    return (
        lambda: getattr(gf, wrap)(inner(gf), *arguments),
        lambda: wrappers(inner(optax), *arguments),
    )


def _before_adamw(stage: str, *arguments: Any) -> Any:
    """A stage of both libraries before AdamW."""
    return (
        lambda: gf.chain(getattr(gf, stage)(*arguments), gf.adamw(1e-3)),
        lambda: optax.chain(getattr(optax, stage)(*arguments), optax.adamw(1e-3)),
    )


def _even(step: Any, **_: Any) -> Any:
    return step % 2 == 0


# Wrappers and stages that are not in the benchmarks' pairs.
STAGES: Mapping[str, Any] = {
    "clip_by_block_rms + adamw": _before_adamw("clip_by_block_rms", 1.0),
    "adaptive_grad_clip + adamw": _before_adamw("adaptive_grad_clip", 0.01),
    "clip + adamw by value": _before_adamw("clip", 1.0),
    "centralize + adamw": _before_adamw("centralize"),
    "zero_nans + adamw": _before_adamw("zero_nans"),
    "normalize_by_update_norm + adamw": _before_adamw("normalize_by_update_norm"),
    "add_noise + adamw": _before_adamw("add_noise", 0.01, 0.55, 0),
    "ema + adamw": _before_adamw("ema", 0.9),
    "scale_by_trust_ratio": (lambda: gf.scale_by_trust_ratio(), lambda: optax.scale_by_trust_ratio()),
    "apply_every(4) after adamw": (
        lambda: gf.chain(gf.adamw(1e-3), gf.apply_every(4)),
        lambda: optax.chain(optax.adamw(1e-3), optax.apply_every(4)),
    ),
    "conditionally_transform(adamw)": _around("conditionally_transform", _even),
    "conditionally_mask(adamw)": _around("conditionally_mask", _even),
    "mechanize(adamw)": _around("mechanize"),
    "schedule_free(sgd)": (
        lambda: gf.schedule_free_sgd(1e-3),
        lambda: optax.contrib.schedule_free_sgd(1e-3),
    ),
    "MultiSteps(clip + adamw, 4)": _around(
        "MultiSteps", 4, inner=lambda of: of.chain(of.clip_by_global_norm(1.0), of.adamw(1e-3))
    ),
    "apply_if_finite(clip + adamw)": _around(
        "apply_if_finite", 3, inner=lambda of: of.chain(of.clip_by_global_norm(1.0), of.adamw(1e-3))
    ),
}  # fmt: skip

# Statistics of whole leaves, factors or random numbers: they may hold more than one leaf of scratch.
NOT_ELEMENTWISE = {
    "adafactor", "adaptive_grad_clip + adamw", "centralize + adamw", "clip_by_block_rms + adamw", "fromage",
    "galore", "lamb", "lars", "muon", "noisy_sgd", "novograd", "scale_by_trust_ratio", "sm3", "sophia",
    "add_noise + adamw",
}  # fmt: skip


class Excess(NamedTuple):
    """Cycles that right numbers cost on a TPU: at most so many times the peer's, and what they pay for.

    With the peer's arithmetic in its place a row takes at most the peer's cycles, as `tests/aot` shows.
    """

    cycles: float
    why: str


_NORM = "its sum of squares is infinite from 1.8e19 and 0 below 1e-19; a norm has three sums here"
_MOMENT = "its average of squares is infinite after a gradient of 1.8e19, and later updates are 0"
EXCESS: Mapping[tuple[str, str], Excess] = {
    ("rules", "clip + adamw"): Excess(1.0115, _NORM),
    ("bfloat16", "clip + adamw"): Excess(1.0155, _NORM),
    ("transformer", "clip + adamw"): Excess(1.0080, _NORM),
    ("rules", "normalize_by_update_norm + adamw"): Excess(1.0120, _NORM),
    ("rules", "adaptive_grad_clip + adamw"): Excess(1.0180, _NORM),
    ("rules", "dog"): Excess(1.0230, _NORM),
    ("rules", "dowg"): Excess(1.0150, _NORM),
    ("rules", "polyak_sgd"): Excess(1.0475, _NORM),
    ("rules", "rmsprop"): Excess(1.0075, _MOMENT),
    ("rules", "adopt"): Excess(1.0075, _MOMENT),
}

# What takes a compiler minutes.
SKIPPED = {("v5e", "galore"): "its singular values take minutes to compile, for either library"}

MAIN = (
    "adamw", "clip + adamw", "apply_if_finite(adamw)", "MultiSteps(adamw, 4)", "lion", "lamb", "adafactor",
    "novograd",
)  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """What a compiled step costs."""

    scratch: int
    cost: Cost
    seconds: float


@dataclass(frozen=True)
class Row:
    """One step of gradflow and of the peer, in bytes; `least` is what a step must read and write."""

    group: str
    name: str
    model: int
    largest_leaf: int
    least: int
    ours: Figures
    peer: Figures


class Failed(NamedTuple):
    """A row that is not compiled, and why."""

    group: str
    name: str
    why: str


def pair(name: str) -> tuple[Any, Any]:
    """A named optimizer, stage or wrapper of both libraries."""
    if name in steps.PAIRS or name in STAGES:
        ours, peer = {**steps.PAIRS, **STAGES}[name]
        return ours(), peer()
    return steps.pair(name)


def names() -> list[str]:
    """All rows of one group: pairs, stages and wrappers, then the other optimizers of both libraries."""
    listed = [*steps.PAIRS, *STAGES]
    others = (name for name in steps.named() if name not in listed)
    return [*listed, *(name for name in others if steps.pair(name)[1] is not None)]


class Group(NamedTuple):
    """Rows that share a tree and where their gradients come from."""

    like: Callable[[], Any]
    step: Callable[..., Callable[..., Any]]
    names: Callable[[], Sequence[str]]


GROUPS: Mapping[str, Group] = {
    "rules": Group(_matrices, outer, names),
    "bfloat16": Group(lambda: _matrices(jnp.bfloat16), outer, lambda: MAIN[:5]),
    "network": Group(_matrices, network, lambda: MAIN),
    "transformer": Group(transformer, outer, lambda: MAIN[:4]),
}


def lowered(compiler: Compiler, group: Group, tx: Any, apply: Any, name: str) -> Any:
    """A step of one library, traced and lowered."""
    like = group.like()
    dtype = jax.tree.leaves(like)[0].dtype
    extra = {k: v if callable(v) else jnp.float32(v) for k, v in steps.EXTRA.get(name, {}).items()}
    rest: tuple[Any, ...] = (like, jax.ShapeDtypeStruct((), jnp.float32))
    if group.step is network:
        rest = (jax.ShapeDtypeStruct((SIDE // 4, SIDE), dtype),)
    state = jax.eval_shape(tx.init, like)
    return compiler.lower(group.step(tx, apply, extra), like, state, *rest)


def figures(compiler: Compiler, lowered: Any) -> Figures:
    """Compiles a step, and reads what it costs."""
    start = time.perf_counter()
    program = compiler.compile(lowered)
    seconds = time.perf_counter() - start
    text = program.as_text()
    # A TPU's compiler adds the tables of its reads ahead, which do not grow with the model.
    memory = held(text) if compiler.platform == "v5e" else scratch(program) or 0
    return Figures(memory, cost(text), seconds)


# A peer's figures by group and name, from an earlier run of the same versions.
Peers = Mapping[tuple[str, str], Figures]


def start_row(
    compiler: Compiler, group_name: str, name: str, pool: Executor, peers: Peers
) -> Callable[[], Row | Failed]:
    """Traces a row in this thread and compiles it in the pool's; the result waits for that."""
    if why := SKIPPED.get((compiler.platform, name)):
        return lambda: Failed(group_name, name, why)
    group = GROUPS[group_name]
    like = group.like()
    ours, peer = pair(name)
    known = peers.get((group_name, name))
    libraries = [("gradflow", ours, gf.apply_updates)]
    if known is None:
        libraries.append(("Optax", peer, optax.apply_updates))
    started = []
    for library, tx, apply in libraries:
        try:
            step = lowered(compiler, group, tx, apply, name)
        except NotImplementedError as error:
            failed = _failed(group_name, name, library, error)
            return lambda: failed
        started.append((library, pool.submit(figures, compiler, step)))
    state = jax.eval_shape(ours.init, like)
    least = nbytes(like) + 2 * (nbytes(like) + nbytes(state))
    largest = max(nbytes(leaf) for leaf in jax.tree.leaves(like))

    def finish() -> Row | Failed:
        found = []
        for library, future in started:
            try:
                found.append(future.result())
            except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
                return _failed(group_name, name, library, error)
        mine, theirs = (*found, known) if known else found
        return Row(group_name, name, nbytes(like), largest, least, mine, theirs)

    return finish


def _failed(group_name: str, name: str, library: str, error: Exception) -> Failed:
    return Failed(group_name, name, f"{library}: {str(error).strip().splitlines()[0][:160]}")


def measured(compiler: Compiler, group_name: str, name: str) -> Row | Failed:
    """A row of both libraries."""
    with ThreadPoolExecutor(2) as pool:
        return start_row(compiler, group_name, name, pool, {})()


class StateRow(NamedTuple):
    """One form of a state: its scratch memory in models, and its cycles and bytes against float32's."""

    name: str
    scratch: float
    cycles: float
    moved: float
    kernels: int


def state_rows(compiler: Compiler, side: int = 8192) -> Iterator[StateRow]:
    """AdamW's step of one matrix with states in fewer bits, and quantized rules alone, in place of gradients.

    The cycles of a kernel that gradflow wrote are not estimated, so there are none in its rows.
    """
    like = {"w": jax.ShapeDtypeStruct((side, side), jnp.float32)}
    adamw, adam = gf.adamw(1e-3), gf.scale_by_adam()
    both = {"mean": "bfloat16", "square": "bfloat16"}
    cast = {"bfloat16 mean": {"mean": "bfloat16"}, "bfloat16 mean and square": both}
    forms = {
        "float32": adamw,
        **{name: gf.cast_state(adamw, dtypes) for name, dtypes in cast.items()},
        "8 bits": gf.quantize_state(adamw),
        "4-bit mean": gf.quantize_state(adamw, 4),
        "8 bits, the rule alone": gf.quantize_state(adam),
        "4-bit mean, the rule alone": gf.quantize_state(adam, 4),
    }
    plain: Cost | None = None
    for name, tx in forms.items():
        state = jax.eval_shape(tx.init, like)
        if name.endswith("alone"):
            step = compiler.lower(lambda g, state, tx=tx: tx.update(g, state), like, state)
        else:
            scale = jax.ShapeDtypeStruct((), jnp.float32)
            step = compiler.lower(outer(tx, gf.apply_updates, {}), like, state, like, scale)
        found = figures(compiler, step)
        plain = plain or found.cost
        cycles = found.cost.cycles / plain.cycles if plain.cycles else math.nan
        has_kernel = "tpu_custom_call" in step.as_text()
        yield StateRow(
            name,
            found.scratch / nbytes(like),
            math.nan if has_kernel or "alone" in name else cycles,
            found.cost.moved / plain.moved,
            found.cost.kernels,
        )


def misses(row: Row) -> list[str]:
    """The bars that a row misses."""
    missed = []
    ours, peer = row.ours, row.peer
    if ours.scratch > peer.scratch + row.model / 50:
        missed.append("scratch")
    alone = row.group in ("rules", "bfloat16") and row.name not in NOT_ELEMENTWISE
    if alone and ours.scratch > row.largest_leaf * 1.02 + row.model / 50:
        missed.append("leaf")
    if ours.cost.kernels > peer.cost.kernels:
        missed.append("kernels")
    # A network's products hide most of the reads, whose cycles are then not counted.
    excess = EXCESS.get((row.group, row.name))
    if row.group != "network" and ours.cost.cycles > (excess.cycles if excess else 1.005) * peer.cost.cycles:
        missed.append("cycles")
    if ours.cost.copies > (peer.cost.copies if row.group == "network" else 0):
        missed.append("copies")
    return missed


def mean(rows: Sequence[Row], of: Callable[[Figures], float]) -> float | None:
    """The geometric mean of gradflow's figure over the peer's; None where a compiler gives none."""
    ratios = [of(row.ours) / of(row.peer) for row in rows if of(row.ours) and of(row.peer)]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None


HEADS = (
    "what", "scratch, models", "kernels", "copies", "calls", "moved, times the least", "cycles", "branches",
    "misses",
)  # fmt: skip


def _ratio(ours: float, peer: float) -> str:
    return f"{ours:,.0f} / {peer:,.0f}" + (f" = {ours / peer:.2f}" if peer else "")


def _branches(found: Figures) -> str:
    return ", ".join("|".join(map(str, each)) for each in found.cost.branches)


def cells(row: Row | Failed) -> tuple[str, ...]:
    """The cells of a row; kernels and bytes of a conditional are those of its largest branch."""
    if isinstance(row, Failed):
        return (row.name, "not compiled", *[""] * 6, row.why)
    ours, peer = row.ours, row.peer
    branches = [_branches(ours), _branches(peer)]
    return (
        row.name,
        f"{ours.scratch / row.model:.3g} / {peer.scratch / row.model:.3g}",
        _ratio(ours.cost.kernels, peer.cost.kernels),
        f"{ours.cost.copies} / {peer.cost.copies}",
        f"{ours.cost.calls} / {peer.cost.calls}",
        f"{ours.cost.moved / row.least:.2f} / {peer.cost.moved / row.least:.2f}",
        _ratio(ours.cost.cycles, peer.cost.cycles) if peer.cost.cycles else "",
        " / ".join(each or "-" for each in branches) if any(branches) else "",
        ", ".join(misses(row)) or paid(row),
    )


def paid(row: Row) -> str:
    """What a row's cycles beyond the peer's pay for."""
    excess = EXCESS.get((row.group, row.name))
    return f"(cycles: {excess.why})" if excess and row.ours.cost.cycles > 1.005 * row.peer.cost.cycles else ""


_WIDTHS = (34, 18, 20, 9, 7, 14, 32, 20, 0)


def line(row: Row | Failed | None) -> str:
    """One line of the table; that of None is its head."""
    columns = zip(cells(row) if row else HEADS, _WIDTHS, strict=True)
    return " ".join(f"{cell:<{width}}" for cell, width in columns).rstrip()


def markdown(rows: Sequence[Row | Failed]) -> str:
    """A table for each group, and its means."""
    parts = []
    for group in dict.fromkeys(row.group for row in rows):
        inside = [row for row in rows if row.group == group]
        table = [HEADS, tuple("---" for _ in HEADS), *map(cells, inside)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
        parts.append(f"#### {group}\n\n" + "\n".join(lines) + "\n\n" + means(inside) + "\n")
    return "\n".join(parts)


def means(rows: Sequence[Row | Failed]) -> str:
    """One line: geometric means of the ratios, and how many rows miss a bar."""
    whole = [row for row in rows if isinstance(row, Row)]
    figures: dict[str, Callable[[Figures], float]] = {
        "kernels": lambda f: f.cost.kernels,
        "bytes moved": lambda f: f.cost.moved,
        "cycles": lambda f: f.cost.cycles,
    }
    found = {name: mean(whole, of) for name, of in figures.items()}
    said = ", ".join(f"{name} {value:.2f}" for name, value in found.items() if value is not None)
    missed = sum(bool(misses(row)) for row in whole)
    return f"Geometric means, gradflow / Optax: {said}; {missed} of {len(whole)} rows miss a bar."


def about(platform: str) -> dict[str, Any]:
    """For what the rows are compiled, and by what."""
    wheels = ("jax", "jaxlib", "optax", *PLATFORMS[platform].modules.values())
    versions = {"gradflow": gf.__version__, **{wheel: importlib.metadata.version(wheel) for wheel in wheels}}
    return {
        "platform": PLATFORMS[platform].title,
        "evidence": "compiled ahead of time; nothing ran",
        "versions": versions,
        "python": python_platform.python_version(),
    }


def write_json(path: str, rows: Sequence[Row | Failed], facts: Mapping[str, Any]) -> None:
    """All rows as data."""
    plain = [asdict(row) if isinstance(row, Row) else row._asdict() for row in rows]
    for row in plain:
        for side in ("ours", "peer"):
            if side in row:
                row[side]["seconds"] = round(row[side]["seconds"], 2)
    lines = ",\n  ".join(json.dumps(row) for row in plain)
    Path(path).write_text(f'{{"about": {json.dumps(dict(facts))},\n "rows": [\n  {lines}\n]}}\n')


def stored_peers(platform: str) -> Peers:
    """The peer's figures in the stored results, if the same compilers and the same peer made them."""
    path = RESULTS / f"aot_{platform}.json"
    stored = json.loads(path.read_text()) if path.exists() else {"about": None, "rows": []}
    now = about(platform)
    if not stored["about"] or not _same_but_gradflow(stored["about"], now):
        return {}
    return {(row["group"], row["name"]): _figures(row["peer"]) for row in stored["rows"] if "peer" in row}


def _same_but_gradflow(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    versions = [{k: v for k, v in each["versions"].items() if k != "gradflow"} for each in (a, b)]
    return versions[0] == versions[1] and a["platform"] == b["platform"]


def _figures(plain: Mapping[str, Any]) -> Figures:
    branches = tuple(map(tuple, plain["cost"]["branches"]))
    return Figures(plain["scratch"], Cost(**{**plain["cost"], "branches": branches}), plain["seconds"])


def rows_of(compiler: Compiler, only: Sequence[str], peers: Peers) -> Iterator[Row | Failed]:
    """The rows of groups or of names; all of them without any."""
    wanted = [
        (group_name, name)
        for group_name, group in GROUPS.items()
        for name in group.names()
        if not only or group_name in only or name in only
    ]
    started: deque[Callable[[], Row | Failed]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group_name, name in wanted:
            started.append(start_row(compiler, group_name, name, pool, peers))
            if len(started) > 2 * (os.cpu_count() or 1):  # programs that wait take memory
                yield started.popleft()()
        while started:
            yield started.popleft()()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aot", description=__doc__)
    parser.add_argument("--platform", required=True, metavar="|".join(PLATFORMS))
    parser.add_argument(
        "--only",
        default="",
        help=f"groups ({', '.join(GROUPS)}) or names of rows, split by ';'; or states or matrices, alone",
    )
    parser.add_argument("--json", metavar="FILE", help="write the rows as data")
    parser.add_argument("--table", metavar="FILE", help="write them as Markdown")
    parser.add_argument(
        "--fresh", action="store_true",
        help="compile the peer, too; else its figures are the stored ones, if the same versions made them",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if why := missing(given.platform):
        parser.error(why)
    only = [name.strip() for name in given.only.split(";") if name.strip()]
    if only == ["states"]:
        print(
            f"{'adamw, 8192^2':<28} {'scratch, models':>16} {'cycles':>7} {'moved':>7} kernels, / float32's"
        )
        for form in state_rows(Compiler(given.platform)):
            print(
                f"{form.name:<28} {form.scratch:>16.3f} {form.cycles:>7.3f} {form.moved:>7.3f} {form.kernels}"
            )
        return
    if only == ["matrices"]:
        from benchmarks import matrices  # it imports this module

        print(matrices.line(None))
        for row in matrices.rows(Compiler(given.platform)):
            print(matrices.line(row), flush=True)
        return
    known = [*GROUPS, *names()]
    for name in only:
        if name not in known:
            parser.error(
                f"no group or row is called '{name}'; there are {'; '.join(known)}; or states or matrices, "
                "alone"
            )
    start = time.perf_counter()
    facts = about(given.platform)
    print(f"{facts['platform']}, {facts['evidence']}; {facts['versions']}\n\n{line(None)}", flush=True)
    found: list[Row | Failed] = []
    peers = {} if given.fresh else stored_peers(given.platform)
    if peers:
        print("Optax's figures are stored ones of the same versions; --fresh compiles them again.")
    for row in rows_of(Compiler(given.platform), only, peers):
        if not found or row.group != found[-1].group:
            print(f"-- {row.group}", flush=True)
        found.append(row)
        print(line(row), flush=True)
        if given.json:  # after each row: a run that is stopped leaves its rows
            write_json(given.json, found, facts)
    print(f"\n{means(found)}\n{time.perf_counter() - start:.0f} s")
    if given.table:
        Path(given.table).write_text(markdown(found))


if __name__ == "__main__":
    # The described device compiles; everything else is the host's.
    jax.config.update("jax_platforms", "cpu")
    main()
