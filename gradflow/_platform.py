"""The one place where the code of a CPU and that of an accelerator part."""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

T = TypeVar("T")

# On these a branch saves memory and time. Elsewhere XLA copies what a branch returns, and a select costs
# nothing where the update reads the old value anyway: MultiSteps of adamw needs 4 models of scratch memory
# on an H100 with a branch, and none with selects (`python -m benchmarks.aot --platform h100`).
CPU = ("cpu",)


def by_platform(
    *operands: Any,
    cpu: Callable[..., Any],
    accelerator: Callable[..., Any],
    tpu: Callable[..., Any] | None = None,
) -> Any:
    """`cpu(*operands)` or `accelerator(*operands)`, as the program is lowered for the one or the other.

    All are traced, and return arrays of the same types. What is not chosen leaves nothing behind. `tpu` is
    for the few places where a TPU and a GPU differ.
    """
    named = {**dict.fromkeys(CPU, cpu), **({} if tpu is None else {"tpu": tpu})}
    return jax.lax.platform_dependent(*operands, default=accelerator, **named)


def on_one_device(
    *operands: Any,
    general: Callable[..., Any],
    cpu: Callable[..., Any],
    gpu: Callable[..., Any],
    tpu: Callable[..., Any],
    each: bool = False,
) -> list[Any]:
    """`general(*operands)`; in a program for one CPU, GPU or TPU, `cpu`, `gpu` or `tpu` of them.

    With `each` these are programs for each device of a mesh, and a program for several has them, too.

    All return lists of arrays of the same types. They come from cached factories, so that equal programs
    are equal. What is not chosen is not traced. Under `vmap` and differentiation it is `general`, and on a
    GPU or TPU also where its language of kernels lacks an operation, or a GPU lacks the language.
    """
    result: list[Any] = _one_device().bind(*operands, general=general, cpu=cpu, gpu=gpu, tpu=tpu, each=each)
    return result


@functools.cache
def _one_device() -> Any:
    choice = type(jax.lax.add_p)("on_one_device")
    choice.multiple_results = True
    choice.def_impl(lambda *operands, general, **_: general(*operands))

    def types(*avals: Any, general: Callable[..., Any], **_: Any) -> list[Any]:
        return list(jax.make_jaxpr(general)(*avals).out_avals)

    def mapped(operands: Sequence[Any], axes: Sequence[Any], *, general: Any, **_: Any) -> Any:
        results = jax.vmap(general, axes)(*operands)
        return results, [0] * len(results)

    def derived(primals: Sequence[Any], tangents: Sequence[Any], *, general: Any, **_: Any) -> Any:
        whole = [
            ad.instantiate_zeros(tangent)
            if jnp.issubdtype(primal.dtype, np.inexact)
            else np.zeros(primal.shape, jax.dtypes.float0)
            for primal, tangent in zip(primals, tangents, strict=True)
        ]
        return jax.jvp(general, tuple(primals), tuple(whole))

    choice.def_abstract_eval(types)
    batching.primitive_batchers[choice] = mapped
    ad.primitive_jvps[choice] = derived

    def lower(kind: str, ctx: Any, *values: Any, each: bool, **programs: Any) -> Any:
        # A program for several devices may hold a part of a block on each.
        program = programs[kind if _is_one_device(ctx) or each else "general"]
        return mlir.lower_fun(program, multiple_results=True)(ctx, *values)

    def lower_kernel(kind: str, ctx: Any, *operands: Any, **programs: Any) -> Any:
        try:
            return lower(kind, ctx, *operands, **programs)
        except (ImportError, RuntimeError, ValueError) as error:  # a NotImplementedError is a RuntimeError
            # The language has no expm1. It has `sign` for a given kind of TPU: a process without one, which
            # exports a program, gets a ValueError. From jax 0.12 on that of a GPU is deprecated, and asks for
            # a known kind of GPU.
            _warn_of_whole_arrays(kind, error)
            return lower("general", ctx, *operands, **programs)

    def lower_for_gpu(ctx: Any, *operands: Any, **programs: Any) -> Any:
        kind = "gpu" if _has_triton(ctx.module_context) else "general"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
            return lower_kernel(kind, ctx, *operands, **programs)

    mlir.register_lowering(choice, functools.partial(lower, "general"))
    mlir.register_lowering(choice, functools.partial(lower, "cpu"), platform="cpu")
    mlir.register_lowering(choice, lower_for_gpu, platform="cuda")
    mlir.register_lowering(choice, functools.partial(lower_kernel, "tpu"), platform="tpu")
    return choice


def _warn_of_whole_arrays(kind: str, error: Exception) -> None:
    """Says why a program has no kernel: its results are the same, its memory is not."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    warnings.warn(
        f"a kernel for quantized leaves could not be lowered for a {kind.upper()}, so this program has whole "
        f"arrays in its place, which need more memory; {reason}",
        stacklevel=2,
    )


def _has_triton(module: Any) -> bool:
    """Whether a program is for GPUs from Ampere on. An exported one is for any; jax refuses Triton there."""
    if module.backend is None or module.lowering_parameters.for_export:
        return False
    return all(_capability(device) >= 8 for device in module.backend.devices())


def _capability(device: Any) -> float:
    return float(getattr(device, "compute_capability", 0))


def _is_one_device(ctx: Any) -> bool:
    """Whether a program is lowered for one device."""
    return getattr(ctx.module_context.axis_context, "num_devices", None) == 1


def cpu_barrier(operands: T) -> T:
    """An optimization barrier on a CPU. Elsewhere it would end a kernel, so there it is left out."""
    result: T = by_platform(operands, cpu=jax.lax.optimization_barrier, accelerator=lambda x: x)
    return result


def gpu_barrier(operands: T) -> T:
    """An optimization barrier on a GPU: what is before it is written, and sums after it read it again.

    A GPU's kernel that adds up cannot write where it reads. New moments would be copied to the old ones: a
    step of MoMo-Adam held a model of scratch memory.
    """
    same = lambda x: x  # noqa: E731
    result: T = by_platform(operands, cpu=same, accelerator=jax.lax.optimization_barrier, tpu=same)
    return result


def row_major(arrays: T) -> T:
    """The same arrays, which one GPU holds row after row."""
    leaves, structure = jax.tree.flatten(arrays)
    result: T = jax.tree.unflatten(structure, _rows().bind(*leaves)) if leaves else arrays
    return result


def written_together(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The same short arrays of a new state, of which one GPU writes those of one type together, last.

    A kernel that adds up, or finds the largest numbers, cannot write where it reads. What it replaces was
    copied: a kernel for each array. SM3 of 8 leaves launches 18, not 25. Coded arrays stay as they are.
    """
    results = list(arrays)
    groups: dict[Any, list[int]] = {}
    for place, x in enumerate(arrays):
        if isinstance(x, jax.Array) and x.dtype in LINKED and _may_link():
            groups.setdefault((x.shape, x.dtype), []).append(place)
    for places in groups.values():
        for start in range(0, len(places), _TOGETHER):
            part = places[start : start + _TOGETHER]
            for place, new in zip(part, _copies().bind(*[arrays[i] for i in part]), strict=True):
                results[place] = new
    return results


_TOGETHER = 16  # arrays that one kernel writes


def in_turn(done: Sequence[jax.Array], rest: Sequence[Any]) -> tuple[list[jax.Array], list[Any]]:
    """Both, where one GPU computes what reads the `rest` when the results in `done` are written."""
    if not done or not _may_link():
        return list(done), list(rest)
    values = _turns(len(done)).bind(*done, *rest)
    return values[: len(done)], values[len(done) :]


def tpu_barrier(operands: T) -> T:
    """An optimization barrier on a TPU: what is before it is one kernel, what comes after it another.

    Each array has its own: a common one would make all of them vary along the same mesh axes.
    """
    same = lambda x: x  # noqa: E731
    barriers = functools.partial(jax.tree.map, jax.lax.optimization_barrier)
    result: T = by_platform(operands, cpu=same, accelerator=same, tpu=barriers)
    return result


def factors_kept(x: jax.Array) -> jax.Array:
    """The same array, a factor of which a GPU's XLA does not move to a number that multiplies the array.

    A normal sample has one, and the deviation times it took a kernel of its own. Complex arrays stay as is.
    """
    if jnp.iscomplexobj(x):
        return x
    same = lambda x: x  # noqa: E731
    return by_platform(x, cpu=same, accelerator=lambda x: _within_infinities(x)[0], tpu=same)


def written_after(value: T, *readers: jax.Array) -> T:
    """`value`, arrays which a CPU computes after `readers`: these read the array whose place one takes.

    XLA orders kernels by their operands alone. Without an order it copies an array of the state before it is
    overwritten: one model of scratch memory in ADOPT. Here the value seems to depend on the readers.
    """
    result: T = by_platform(value, *readers, cpu=_after, accelerator=lambda value, *_: value)
    return result


def _after(value: T, *readers: jax.Array) -> T:
    for reader in readers:
        never = _never(reader.real if jnp.iscomplexobj(reader) else reader)
        value = jax.tree.map(lambda x, never=never: jnp.where(never, jnp.zeros_like(x), x), value)
    return value


def in_kernel_of(square: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, which a TPU computes in the kernel that writes `square`, an average that is never negative.

    Without a reason it may compute what both need in two kernels: AdaDelta took 1.46 times the cycles. Here
    the value seems to depend on the average.
    """
    same = lambda _, value: value  # noqa: E731
    return by_platform(square, value, cpu=same, accelerator=same, tpu=_unless_negative)


def _unless_negative(square: jax.Array, value: jax.Array) -> jax.Array:
    return jnp.where(square < jnp.zeros((), square.dtype), jnp.zeros((), value.dtype), value)


def in_one_kernel(values: Sequence[jax.Array]) -> list[jax.Array]:
    """The same scalars, which a GPU computes in one kernel.

    XLA launches a kernel for each scalar result, since it joins only what depends on each other. Here each
    number seems to depend on the one before. With a kernel per leaf, AdamW of 8 leaves launches 9, not 12.
    """
    return list(_link().bind(*values)) if len(values) > 1 and _may_link() else list(values)


def in_one_array(values: Sequence[Any], part: int = 0) -> list[Any]:
    """The same numbers, of one type, which the kernels of a GPU read from one array.

    XLA joins kernels for leaves of one shape only where they read one array of more than one number. Then
    AdamW of 195 leaves launches 23 kernels, not 196. Another `part` of the leaves reads another array, so
    that its kernels stay apart; one kernel copies the first array for all other parts.
    """
    return list(_array().bind(*values, part=part)) if _may_link() else list(values)


def fused_last(values: Sequence[Any]) -> list[Any]:
    """The same real numbers, which are the last operands of a CPU's kernels.

    XLA compiles equal kernels once, and equality includes the order of operands: the order in which they are
    fused, last computed first. Leaves of a shape share the broadcast of a number. In the first leaf it comes
    between operations on arrays, in the others before all of them. Here an operation on the number itself
    comes before the broadcast, so that the number is fused last in every leaf but the program's first. NAdam
    with 16 leaves of 7 shapes has 26 kernels, not 32 (`kinds` in `python -m benchmarks`).
    """
    return list(_scalar().bind(*values)) if _may_link() else list(values)


def in_place_of(old: jax.Array, new: jax.Array) -> jax.Array:
    """The new value, which a GPU may write where the old one is.

    A fusion that reads the old value for another result, and writes a new one that does not depend on it,
    needs a copy of the old one. So the new one seems to depend on it: an Adan step moves a sixth less.
    """
    if old.shape != new.shape or old.dtype != new.dtype or old.dtype not in LINKED or not _may_link():
        return new
    result: jax.Array = _link().bind(old, new)[1]
    return result


def _may_link() -> bool:
    # Inside shard_map a value would seem to vary along the axes of the one before.
    return not jax.sharding.get_abstract_mesh().manual_axes


# Types of what is linked: their bits are an integer's, or they convert to one.
LINKED = (np.dtype(np.int32), np.dtype(np.float32), np.dtype(np.bool_))


@functools.cache
def _link() -> Any:
    """A primitive that returns its operands; on a GPU they are linked.

    As `by_platform` it would map all results under `vmap` if one is mapped.
    """
    return _same_values("in_one_kernel", _linked)


@functools.cache
def _array() -> Any:
    """A primitive that returns its operands; on a GPU they are parts of one array."""
    return _same_values("in_one_array", _from_array)


@functools.cache
def _scalar() -> Any:
    """A primitive that returns its operands; on a CPU each is the result of an operation."""
    return _same_values("fused_last", lambda *values: list(values), _within_infinities)


def _within_infinities(*values: jax.Array) -> list[jax.Array]:
    # XLA removes other operations that change nothing, such as a product with 1.
    infinity = [np.asarray(np.inf, value.dtype) for value in values]
    return [jax.lax.clamp(-high, value, high) for value, high in zip(values, infinity, strict=True)]


@functools.cache
def _rows() -> Any:
    """A primitive that returns its operands; on one GPU they lie row after row."""
    return _same_values("row_major", lambda *values: [_flat_and_back(x) for x in values], on_one=True)


def _flat_and_back(x: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(x.reshape(-1)).reshape(x.shape) if x.ndim > 1 else x


@functools.cache
def _copies() -> Any:
    """A primitive that returns its operands, of one type; one GPU writes them in one kernel."""
    return _same_values("written_together", _linked_in_a_ring, on_one=True)


def _linked_in_a_ring(*values: jax.Array) -> list[jax.Array]:
    # Behind a barrier no link joins the kernel that makes the values.
    linked = list(jax.lax.optimization_barrier(values))
    for place, value in enumerate(linked):
        linked[place] = jax.lax.select(_never(linked[place - 1]), jnp.zeros_like(value), value)
    return linked


@functools.cache
def _turns(count: int) -> Any:
    """A primitive that returns its operands; on one GPU those after `count` seem to depend on the first."""
    turns = _same_values("in_turn", functools.partial(_ordered, count), on_one=True)
    batching.primitive_batchers[turns] = lambda values, axes: (values, axes)
    return turns


def _ordered(count: int, *values: Any) -> list[Any]:
    # A barrier alone orders nothing; it has the results written, and an element of one read back.
    done = list(jax.lax.optimization_barrier(values[:count]))
    first = jax.lax.slice(done[0], (0,) * done[0].ndim, (1,) * done[0].ndim).reshape(())
    never = _never(jnp.real(first))
    return [*done, *(_or_zeros(never, x) for x in values[count:])]


def _or_zeros(never: jax.Array, x: Any) -> Any:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _or_zeros(never, jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jnp.where(never, jnp.zeros_like(x), x)


def _same_values(
    name: str,
    on_gpu: Callable[..., list[jax.Array]],
    on_cpu: Callable[..., list[jax.Array]] | None = None,
    *,
    on_one: bool = False,
) -> Any:
    """A primitive that returns its operands, on a GPU or a CPU what `on_gpu` or `on_cpu` makes of them.

    With `on_one` several GPUs return the operands too.
    """
    same = type(jax.lax.add_p)(name)  # the class itself is in jax.extend, which imports for 0.1 s
    same.multiple_results = True
    same.def_impl(lambda *values, **_: list(values))
    same.def_abstract_eval(lambda *values, **_: list(values))
    ad.primitive_jvps[same] = lambda values, tangents, **part: (same.bind(*values, **part), list(tangents))
    batching.primitive_batchers[same] = functools.partial(_bind_if_mapped_alike, same)
    on_any = mlir.lower_fun(on_gpu, multiple_results=True)

    def accelerator(ctx: Any, *values: Any, **part: Any) -> Any:
        return on_any(ctx, *values, **part) if not on_one or _is_one_device(ctx) else list(values)

    mlir.register_lowering(same, accelerator)
    plain = mlir.lower_fun(on_cpu or (lambda *values, **_: list(values)), multiple_results=True)
    cpu = lambda ctx, *values, **part: (plain if CPU else accelerator)(ctx, *values, **part)  # noqa: E731
    mlir.register_lowering(same, cpu, platform="cpu")
    # A TPU launches no kernels for scalars and copies nothing; optimistic Adam took 1.16 times the cycles.
    mlir.register_lowering(same, lambda ctx, *values, **_: list(values), platform="tpu")
    return same


def _bind_if_mapped_alike(
    same: Any, values: Sequence[jax.Array], axes: Sequence[Any], **part: int
) -> tuple[Any, Sequence[Any]]:
    results = list(values)
    for axis in dict.fromkeys(axes):
        places = [place for place, own in enumerate(axes) if own == axis]
        bound = same.bind(*[values[place] for place in places], **part)
        for place, value in zip(places, bound, strict=True):
            results[place] = value
    return results, axes


def _from_array(*values: jax.Array, part: int = 0) -> list[jax.Array]:
    # One number in an array counts as a scalar. Two that differ may be constants, which need no kernel.
    rows = [jax.lax.expand_dims(value, [0]) for value in values]
    if len(rows) == 1:
        rows.append(jnp.full_like(rows[0], 0.375))
    array = jax.lax.concatenate(rows, 0)
    if part:
        array = jax.lax.select(_never(array, 2 * part + 1), jnp.zeros_like(array), array)
    # Behind a barrier XLA does not replace the parts by what they are made of.
    array = jax.lax.optimization_barrier(array)
    return [jax.lax.index_in_dim(array, place, keepdims=False) for place in range(len(values))]


def _linked(*values: jax.Array) -> list[jax.Array]:
    linked = [values[0]]
    for value in values[1:]:
        linked.append(jax.lax.select(_never(linked[-1]), jnp.zeros_like(value), value))
    return linked


def _never(x: jax.Array, odd: int = 1) -> jax.Array:
    """False, by a test whose result XLA does not know: no odd number is 0."""
    if x.dtype == np.bool_:
        x = x.astype(np.int32)
    bits = np.dtype(f"int{8 * x.dtype.itemsize}")
    if x.dtype != bits:
        x = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), bits)
    return (x | np.full(x.shape, odd, bits)) == np.zeros(x.shape, bits)
