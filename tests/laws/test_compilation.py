"""Laws 1, 6 and 7: jit, vmap, scan, cond, donation, meshes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from specs import PARTS, REPRESENTATIVES, build, over_all
from trees import MIXED, filled, small

import gradflow as gf
from gradflow import wrappers
from laws.operations import interpreted
from laws.support import (
    aliases,
    assert_close,
    avals,
    compiled_step,
    extras,
    run,
    run_compiled,
    run_interpreted,
)

# One mechanism compiles an eager update, whatever the stage; wrappers choose what it sees.
EAGER = [case for case in PARTS if case in REPRESENTATIVES or case in wrappers.__all__]

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects an entry for every program that the backend compiles in this block."""
    seen: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event == COMPILED:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def step_of(tx: Any) -> Any:
    """A training step whose gradient is the parameters' own value."""

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda p: 0.1 * p, params)
        updates, state = tx.update(grads, state, params, **extras(tx, params, grads))
        return gf.apply_updates(params, updates), state

    return step


@over_all("jit is eager", EAGER)
def test_jit_gives_the_eager_numbers(case: str) -> None:
    params, grads = small(0), [small(1), small(2)]
    compiled, eager = run_compiled(case, params, grads), run(build(case), params, grads)
    assert avals(eager) == avals(compiled)
    assert_close(compiled, eager, rtol=2e-5)


@over_all("jit is its operations", PARTS)
def test_jit_gives_the_numbers_of_its_operations(case: str) -> None:
    params, grads = small(0), [small(1), small(2)]
    compiled, interpreted = run_compiled(case, params, grads), run_interpreted(build(case), params, grads)
    assert avals(interpreted) == avals(compiled)
    assert_close(compiled, interpreted, rtol=2e-5)


@over_all("vmap is a loop", PARTS)
def test_vmap_gives_the_numbers_of_a_loop(case: str) -> None:
    tx = build(case)
    params, grads = [small(0), small(1)], [small(3), small(4)]

    def stack(trees: list[Any]) -> Any:
        return jax.tree.map(lambda *x: jnp.stack(x), *trees)

    batched = interpreted(jax.vmap(lambda p, g: run(tx, p, [g, g])))(stack(params), stack(grads))
    for i in range(2):
        single = run_interpreted(tx, params[i], [grads[i], grads[i]])
        one = jax.tree.map(lambda x, i=i: x[i], batched)
        assert_close(one, single, rtol=2e-5)


@over_all("scan and cond", PARTS)
def test_scan_and_cond(case: str) -> None:
    tx = build(case)
    params = small(0)
    step = step_of(tx)

    def body(carry: Any, _: Any) -> tuple[Any, None]:
        return jax.lax.cond(jnp.asarray(True), lambda c: step(*c), lambda c: c, carry), None

    start = (params, tx.init(params))
    scanned = interpreted(lambda start: jax.lax.scan(body, start, None, length=3)[0])(start)
    looped = start
    for _ in range(3):
        looped = interpreted(step)(*looped)
    assert_close(scanned, looped, rtol=2e-5)


@over_all("no leaks", PARTS)
def test_no_tracer_leaks(case: str) -> None:
    params = small(0)
    with jax.checking_leaks():
        tx = build(case)
        state = jax.eval_shape(tx.init, params)
        jax.jit(step_of(tx)).trace(params, state)


@over_all("one compilation", PARTS)
def test_one_compilation_for_many_steps(case: str) -> None:
    params = small(0)
    state = build(case).init(params)
    step = compiled_step(case)
    with compilations() as seen:
        _, state, params = step(small(1), state, params)
    assert len(seen) <= 1, "laws share the program"
    with compilations() as seen:
        for _ in range(3):
            _, state, params = step(small(1), state, params)
    assert not seen


@over_all("donation", PARTS)
def test_donation_after_eager_init(case: str) -> None:
    tx = build(case)
    params = small(0)
    state = tx.init(params)
    assert not aliases(state, params)
    _, *expected = run_interpreted(tx, small(0), [small(1), small(2)])
    for g in (small(1), small(2)):
        taken = params["kernel"]
        _, state, params = compiled_step(case)(g, state, params)
        assert taken.is_deleted()
    assert_close([params, state], expected, rtol=2e-5)


def _mesh(kind: AxisType) -> Any:
    """Eight devices; four of them cut the rows of the laws' kernel, whose operations are compiled already."""
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))


@over_all("a mesh changes nothing", PARTS)
def test_on_a_mesh_one_compilation_and_shardings_stay(case: str) -> None:
    tx = build(case)
    plain = small(0)
    mesh = _mesh(AxisType.Auto)
    shardings = {"kernel": NamedSharding(mesh, P("x")), "bias": NamedSharding(mesh, P())}
    step = interpreted(step_of(tx))
    expected = step(*step(plain, tx.init(plain)))
    step = jax.jit(step_of(tx))
    for init, compiled in ((tx.init, 1), (jax.jit(tx.init), 0)):
        params = jax.device_put(plain, shardings)
        state = init(params)
        for leaf in jax.tree.leaves(state):
            if leaf.shape == (4, 3):
                here = shardings["kernel"].with_memory_kind(leaf.sharding.memory_kind)
                assert leaf.sharding.is_equivalent_to(here, 2)
            assert len(leaf.sharding.device_set) == 8
        with compilations() as seen:
            params, state = step(params, state)
            params, state = step(params, state)
        assert len(seen) == compiled, "a state is placed alike, whether its init was compiled or not"
        assert_close(jax.device_get(params), jax.device_get(expected[0]), rtol=2e-5)


def _explicit() -> tuple[Any, Any]:
    """A mesh whose shardings are part of every array's type, and parameters on it."""
    mesh = _mesh(AxisType.Explicit)
    specs = {"kernel": NamedSharding(mesh, P("x", None)), "bias": NamedSharding(mesh, P(None))}
    return mesh, jax.device_put(small(0), specs)


@over_all("explicit sharding")
def test_explicit_shardings_stay(case: str) -> None:
    tx = build(case)
    mesh, params = _explicit()
    with jax.set_mesh(mesh):
        moved, _ = jax.eval_shape(step_of(tx), params, jax.eval_shape(tx.init, params))
    for name, leaf in moved.items():
        assert leaf.sharding == jax.typeof(params[name]).sharding, name


@over_all("explicit sharding", REPRESENTATIVES)
def test_explicit_shardings_change_no_number(case: str) -> None:
    tx = build(case)
    plain = small(0)
    expected = interpreted(step_of(tx))(plain, tx.init(plain))[0]
    mesh, params = _explicit()
    with jax.set_mesh(mesh):
        moved, _ = jax.jit(step_of(tx))(params, jax.jit(tx.init)(params))
    assert_close(jax.device_get(moved), jax.device_get(expected), rtol=2e-5)


@over_all("shard_map is right or refuses", PARTS)
def test_inside_shard_map_right_or_refused(case: str) -> None:
    """A stage that looks at more than its own element would see a part of the array alone."""
    tx = build(case)
    plain = small(0)
    expected = interpreted(step_of(tx))(plain, tx.init(plain))[0]
    mesh = _mesh(AxisType.Auto)
    specs = {"kernel": P("x"), "bias": P()}

    def local(params: Any) -> Any:
        return step_of(tx)(params, tx.init(params))[0]

    mapped = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(specs,), out_specs=specs))
    try:
        moved = mapped(plain)
    except ValueError as error:
        assert "axis_name" in str(error) or "shard_map" in str(error), error
        return
    assert_close(jax.device_get(moved), jax.device_get(expected), rtol=2e-5)


@over_all("state under jit", PARTS)
def test_jitted_init_gives_the_eager_state(case: str) -> None:
    tx = build(case)
    params = filled(0, MIXED)
    eager, traced = tx.init(params), interpreted(tx.init)(params)
    assert avals(eager) == avals(traced)
    assert_close(traced, eager)
