"""Float64 with one property of float32: its range, its rounding, or its random draws.

A trajectory in float32 is not that of float64 for one of these. Which one is found by taking it alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from gradflow.tree._bands import BANDS
from laws.operations import scan_parts

RANGE, ROUNDING = (8, 52), (11, 23)  # bits of exponents and of mantissas


def narrowed(function: Callable[..., Any], bits: tuple[int, int]) -> Callable[..., Any]:
    """The function with every number in float64 rounded to these bits after each operation."""

    def call(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        leaves = [_rounded(jnp.asarray(x), bits) for x in jax.tree.leaves(args)]
        return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed, leaves, bits))

    return call


def _rounded(x: Any, bits: tuple[int, int]) -> Any:
    return jax.lax.reduce_precision(x, *bits) if x.dtype == np.float64 else x


def _evaluate(program: Any, arguments: Any, bits: tuple[int, int]) -> list[Any]:
    jaxpr, constants = getattr(program, "jaxpr", program), getattr(program, "consts", ())
    values = dict(zip(jaxpr.constvars, (_rounded(x, bits) for x in constants), strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        if isinstance(atom, Literal):
            return _rounded(jnp.asarray(atom.val, atom.aval.dtype), bits)
        return values[atom]

    for equation in jaxpr.eqns:
        results = _results(equation, list(map(read, equation.invars)), bits)
        values.update(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _results(equation: Any, operands: list[Any], bits: tuple[int, int]) -> list[Any]:
    p = equation.params

    def of(program: Any) -> Callable[..., list[Any]]:
        return lambda *arguments: _evaluate(program, arguments, bits)

    match equation.primitive.name:
        case "jit" | "pjit" | "remat2" | "checkpoint":
            return of(p["jaxpr"])(*operands)
        case "custom_jvp_call" | "custom_vjp_call" | "closed_call":
            return of(p["call_jaxpr"])(*operands)
        case "custom_vmap_call":
            return of(p["call"])(*operands)
        case "cond":
            index, *others = operands
            return list(jax.lax.switch(index.astype(np.int32), list(map(of, p["branches"])), *others))
        case "while":
            first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
            test, body = operands[:first], operands[first:second]
            return list(
                jax.lax.while_loop(
                    lambda carry: of(p["cond_jaxpr"])(*test, *carry)[0],
                    lambda carry: of(p["body_jaxpr"])(*body, *carry),
                    operands[second:],
                )
            )
        case "scan":
            consts, carry, rows = scan_parts(p, operands)

            def step(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
                results = of(p["jaxpr"])(*consts, *carry, *row)
                return results[: len(carry)], results[len(carry) :]

            carry, columns = jax.lax.scan(step, carry, rows, length=p["length"], reverse=p["reverse"])
            return [*carry, *columns]
        case "eigh" | "qr" | "geqrf" | "householder_product" | "svd" | "cholesky" if bits == ROUNDING:
            operands = [x.astype(np.float32) if x.dtype == np.float64 else x for x in operands]
            made = equation.primitive.bind(*operands, **p)
            return [x.astype(np.float64) for x in (made if equation.primitive.multiple_results else [made])]
    made = equation.primitive.bind(*operands, **p)
    return [_rounded(x, bits) for x in (made if equation.primitive.multiple_results else [made])]


@contextlib.contextmanager
def constants_of_float32(*names: str) -> Iterator[None]:
    """Programs that are traced here find float32's attributes of these names in `finfo` of float64."""

    class Info:
        def __init__(self, own: Any, other: Any) -> None:
            self.own, self.other = own, other

        def __getattr__(self, name: str) -> Any:
            own = getattr(self.own, name)
            return type(own)(getattr(self.other, name)) if name in names else own

    def changed(finfo: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda dtype: (
            Info(finfo(np.float64), finfo(np.float32)) if dtype == np.float64 else finfo(dtype)
        )

    jax.clear_caches()
    with (
        mock.patch.object(jnp, "finfo", changed(jnp.finfo)),
        mock.patch.object(np, "finfo", changed(np.finfo)),
    ):
        yield
    jax.clear_caches()


@contextlib.contextmanager
def of_float32(bits: tuple[int, int]) -> Iterator[None]:
    """The constants that go with a range or a rounding."""
    if bits == ROUNDING:
        with constants_of_float32("eps"):
            yield
        return
    # Norms choose powers of two by the range.
    bands = mock.patch.dict(BANDS, {np.dtype(np.float64): BANDS[np.dtype(np.float32)]})
    with bands, constants_of_float32("max", "min", "tiny", "maxexp", "minexp"):
        yield


@contextlib.contextmanager
def draws_of_float32() -> Iterator[None]:
    """Programs that are traced here draw in float32 what they would draw in float64."""

    def narrow(draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(key: Any, shape: Any = (), dtype: Any = np.float64, *others: Any) -> Any:
            own = np.dtype(dtype)
            return draw(key, shape, np.float32 if own == np.float64 else own, *others).astype(own)

        return drawn

    jax.clear_caches()
    with (
        mock.patch.object(jax.random, "normal", narrow(jax.random.normal)),
        mock.patch.object(jax.random, "uniform", narrow(jax.random.uniform)),
    ):
        yield
    jax.clear_caches()
