"""Mutants: small mistakes put into a copy of gradflow, each of which the tests must notice.

    python tests/mutants.py                      all of them
    python tests/mutants.py adam donation        those whose name has one of these words
    python tests/mutants.py --wide adam          with all tests of the mutant's rooms in the place of its few
    python tests/mutants.py --root ../other      against the package and the tests of another checkout

Run by hand, before and after the tests are changed; pytest does not collect it. It prints a table and ends with
1 if a mutant survives or cannot be placed. A mutant is found by its text, which must occur once in the package
(or once in the files that it names), so it outlives moves of files.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A mistake, and the tests that are there to notice it."""

    name: str
    old: str
    new: str
    tests: str
    file: str = "*.py"


def laws(cases: str, law: str = "") -> str:
    """The arguments that select laws over some cases."""
    chosen = f"({cases})" + (f" and ({law})" if law else "")
    return f"tests/laws -k '{chosen}'"


def rule(name: str) -> str:
    """The arguments that select the tests of an optimizer's numbers."""
    return f"tests/optimizers -k '{name}'"


MUTANTS = [
    # Optimizers: the equations.
    Mutant("adam: no bias correction of mu", "mu / (s.bias1 * (safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps)), mu, nu", "mu / (safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps), mu, nu", rule("adam"), "_adam.py"),
    Mutant("adam: eps inside the root", "(safe_sqrt(s.debias2 * nu + s.eps_root) + s.eps)), mu, nu", "safe_sqrt(s.debias2 * nu + s.eps_root + s.eps)), mu, nu", rule("adam"), "_adam.py"),
    Mutant("adam: nesterov looks at this step", "s.next_mu * mu + s.next_g * g", "s.next_mu * mu + s.next_mu * g", rule("adam or nadam"), "_adam.py"),
    Mutant("adam: mu_dtype is dropped", "first_moment(params, mu_dtype), second_moment(params))", "first_moment(params), second_moment(params))", laws("scale_by_adam", "asked_for"), "_adam.py"),
    Mutant("adamw: decay behind the rate", "        add_decayed_weights(weight_decay, mask),\n        scale_by_learning_rate(learning_rate),\n    )\n", "        scale_by_learning_rate(learning_rate),\n        add_decayed_weights(weight_decay, mask),\n    )\n", rule("adamw"), "_adam.py"),
    Mutant("adamax: eps outside the maximum", "jnp.maximum(s.b2 * nu, jnp.abs(g) + s.eps)", "jnp.maximum(s.b2 * nu, jnp.abs(g))", laws("scale_by_adamax", "zero"), "_adamax.py"),
    Mutant("yogi: away from the square", "nu = nu - jnp.sign(nu - square) * step", "nu = nu + jnp.sign(nu - square) * step", rule("yogi")),
    Mutant("adagrad: eps outside", "bounded(g) / safe_sqrt(total + s.eps)", "bounded(g) / (safe_sqrt(total) + s.eps)", rule("adagrad"), "_adagrad.py"),
    Mutant("rmsprop: eps on the other side", "(eps, 0.0) if eps_in_sqrt else (0.0, eps)", "(0.0, eps) if eps_in_sqrt else (eps, 0.0)", rule("rmsprop"), "_rmsprop.py"),
    Mutant("lion: averages before it reads", "s.b1 * mu + s.c1 * g\n    return sign", "s.b2 * mu + s.c2 * g\n    return sign", rule("lion"), "_lion.py"),
    Mutant("lion: reads back for every b2", "float(b2) >= 0.5", "float(b2) >= 0.0", rule("lion"), "_lion.py"),
    Mutant("sgd: dampens the first gradient", "jnp.where(count == 0, jnp.ones_like(dampening), 1 - dampening)", "1 - dampening", "tests/transforms/test_transform_equations.py -k dampened"),
    Mutant("adan: the first change counts", '"changed": jnp.where(t > 1, jnp.ones_like(c1)', '"changed": jnp.where(t > 0, jnp.ones_like(c1)', rule("adan")),
    Mutant("adopt: the first square is averaged", '"gain2": jnp.where(first, one, 1 - b2)', '"gain2": 1 - b2', rule("adopt")),
    Mutant("nadam: half of the decay", "(1 - 0.5 * jnp.exp(decay", "(1 - 0.25 * jnp.exp(decay", rule("nadam")),
    Mutant("radam: a wrong rectifier", "(a - 4) * (a - 2) * b", "(a - 4) * (a - 3) * b", rule("radam")),
    Mutant("ademamix: the slow average is corrected", "s.debias1 * m1 + s.alpha * m2", "s.debias1 * (m1 + s.alpha * m2)", rule("ademamix")),
    Mutant("madgrad: rate without the root", "rate * jnp.sqrt(count.astype(rate.dtype))", "rate * count.astype(rate.dtype)", rule("madgrad")),
    Mutant("sm3: the largest bound", "functools.reduce(jnp.minimum, mu)", "functools.reduce(jnp.maximum, mu)", rule("sm3")),
    Mutant("rprop: steps on a turn", "jnp.where(agreement < 0, 0, sign)", "jnp.where(agreement < 0, sign, sign)", rule("rprop")),
    Mutant("novograd: the first norm is averaged", '"gain": jnp.where(first, jnp.ones_like(b2), 1 - b2)', '"gain": 1 - b2', rule("novograd")),
    Mutant("prodigy: eps without d", "s.d * s.eps", "s.eps", rule("prodigy"), "_prodigy.py"),
    Mutant("dog: the last distance", "return jnp.maximum(max_dist, distance)", "return jnp.minimum(max_dist, distance)", rule("dog"), "_dog.py"),
    Mutant("cocob: the reward may be negative", "jnp.clip(loss, reward - 2 * limit, reward)", "jnp.maximum(loss, reward - 2 * limit)", rule("cocob")),
    Mutant("momo: decay is not proximal", "(s.step * exp_avg + s.decay * p) / s.shrink", "(s.step * exp_avg + s.decay * p)", rule("momo"), "_momo.py"),
    Mutant("fromage: grows", "s.factor * g - s.loss * p", "s.factor * g + s.loss * p", rule("fromage")),
    Mutant("sophia: no clipping", "jnp.clip(u, -s.clip_threshold, s.clip_threshold)", "jnp.clip(u, -10 * s.clip_threshold, 10 * s.clip_threshold)", rule("sophia")),
    Mutant("muon: no adjoint", "adjoint = jnp.conj(x.T)", "adjoint = x.T", "tests/optimizers/test_muon.py -k phases", "_muon.py"),
    Mutant("lbfgs: a curvature of any sign", "(curvature > np.finfo(curvature.dtype).eps", "(curvature > -np.inf * np.finfo(curvature.dtype).eps", rule("lbfgs")),
    Mutant("galore: the basis is never renewed", "(basis[..., 0] == 0) | (s.count % gap == 0)", "(basis[..., 0] == 0) | (s.count < 0)", rule("galore"), "_galore.py"),
    # Transforms.
    Mutant("clip: one side", "jnp.clip(g, -s.max_delta, s.max_delta)", "jnp.minimum(g, s.max_delta)", "tests/transforms/test_transform_equations.py -k clip"),
    Mutant("clip_by_global_norm: always scales", "clipped = size > limit * power", "clipped = size >= 0", "tests/transforms/test_transform_equations.py -k global", "_scaled_norm.py"),
    Mutant("scaled_norms: overflow is not seen", "| (square == np.inf)", "| (square < 0)", "tests/transforms/test_per_example.py tests/core/test_packed.py"),
    Mutant("trace: nesterov with the old sum", "return in_range(s.decay * trace + g), trace\n", "return in_range(trace + g), trace\n", "tests/transforms/test_transform_equations.py -k trace", "_trace.py"),
    Mutant("ema: not debiased", "return s.debias * average, average", "return average, average", "tests/transforms/test_transform_equations.py -k ema"),
    Mutant("ema: half-precision average", "accumulator_dtype or at_least_float32(p.dtype)", "accumulator_dtype or p.dtype", "tests/transforms/test_transform_equations.py -k 'ema or average'"),
    Mutant("decay: the mask is inverted", "return fill_none(decay(keep_where(keep, updates), params), updates), state", "return fill_none(decay(updates, keep_where(keep, params)), updates), state", "tests/core/test_mistakes.py -k masks", "_decay.py"),
    Mutant("trust ratio: zero norms divide", "jnp.where(usable, g_norm + s.eps * power, 1)", "g_norm + s.eps * power", laws("scale_by_trust_ratio", "gradients")),
    Mutant("noise: one key for ever", "AddNoiseState(count, later)", "AddNoiseState(count, state.rng_key)", "tests/transforms/test_transform_noise.py"),
    Mutant("plateau: patience is one longer", 'reduced = plateau >= s["patience"]', 'reduced = plateau > s["patience"]', "tests/transforms/test_reduce_on_plateau.py"),
    Mutant("centralize: divides by all", "/ (power * count)", "/ (power * g.size)", "tests/transforms/test_transform_equations.py -k centralize"),
    Mutant("scale: a stage forgets its sign", "factor=-rate if flip_sign", "factor=rate if flip_sign", "tests/optimizers/test_equations.py", "_scale.py"),
    Mutant("scale_by_learning_rate: the count stays", "return u, ScaleByScheduleState(increment(state.count))\n\n    return init, update\n\n\n@transformation(packable", "return u, ScaleByScheduleState(state.count)\n\n    return init, update\n\n\n@transformation(packable", laws("scale_by_learning_rate or adamw", "schedule"), "_scale.py"),
    # Wrappers.
    Mutant("MultiSteps: leftovers stay", '(mini_step > 0).astype(weight.dtype)', '(mini_step >= 0).astype(weight.dtype)', "tests/wrappers/test_accumulate.py"),
    Mutant("MultiSteps: a skip is counted", "taken = jnp.where(skip, state.mini_step, increment(state.mini_step))", "taken = increment(state.mini_step)", "tests/wrappers/test_accumulate.py"),
    Mutant("apply_if_finite: never gives up", "given_up = streak > most", "given_up = streak > 10 * most", "tests/wrappers/test_guard.py", "_guard.py"),
    Mutant("apply_if_finite: the state is stepped", "return streak, given_up, finite | given_up", "return streak, given_up, finite | ~finite", "tests/wrappers/test_guard.py", "_guard.py"),
    Mutant("update_if: skipped steps pass", "return jnp.where(take, u, jnp.zeros((), u.dtype))", "return u", "tests/wrappers/test_guard.py"),
    Mutant("lookahead: the whole way", "{\"synced\": step, \"pace\": step * slow_step_size}", "{\"synced\": step, \"pace\": step}", "tests/wrappers/test_lookahead.py"),
    Mutant("leafwise: numbers are fused in their turn", "fused_last([numbers[name] for name in computed])", "[numbers[name] for name in computed]", "tests/test_benchmarks.py -k share", "_leafwise.py"),
    Mutant("schedule_free: the average begins at y", "x = y + ahead", "x = y", "tests/wrappers/test_schedule_free.py"),
    Mutant("schedule_free: z is an alias", "z=jax.tree.map(lambda p: jnp.array(p, _dtype_of_z(p, state_dtype), copy=True), params)", "z=jax.tree.map(lambda p: jnp.asarray(p, _dtype_of_z(p, state_dtype)), params)", laws("schedule_free", "donation")),
    Mutant("sam: no way back", "jnp.where(s.last, cache - p + u, -adversarial)", "jnp.where(s.last, u, -adversarial)", "tests/wrappers/test_sam.py"),
    Mutant("mechanize: no wealth is lost", "+ jnp.maximum(r, 0)", "+ jnp.abs(r)", "tests/wrappers/test_mechanize.py"),
    Mutant("masked: zeros in the place of what passes", 'unchanged = elsewhere == "pass" or', 'unchanged = elsewhere != "pass" or', "tests/wrappers/test_masked.py"),
    Mutant("param_ema: the parameters before the step", "s.decay * ema + s.c * (p + u)", "s.decay * ema + s.c * p", "tests/wrappers/test_eval_params.py"),
    Mutant("swa: one step too late", "return (since >= 0) &", "return (since > 0) &", "tests/wrappers/test_eval_params.py"),
    Mutant("flatten: leaves out of place", "                out[i] = piece_of(new[offset : offset + size], grads[i])\n            offset += size\n", "                out[i] = piece_of(new[offset : offset + size], grads[i])\n                offset += size\n", "tests/wrappers/test_flatten.py", "_flatten.py"),
    # The core: what only laws over all stages can see.
    Mutant("second moments in half precision", "full_leaf(p, value, at_least_float32(real_dtype(p.dtype)))", "full_leaf(p, value, real_dtype(p.dtype))", "tests/optimizers/test_numerics.py -k moments"),
    Mutant("rules compute in half precision", "[_in_dtype(x, promote(x.dtype, real)) for x in plain]", "plain", "tests/core/test_leafwise.py -k traced_once"),
    Mutant("counts wrap", "return jax.lax.select(jax.lax.lt(count, last), jax.lax.add(count, one), count)", "return count + one", "tests/core/test_leafwise.py -k count"),
    Mutant("scalars forget the mesh", "if isinstance(sharding, jax.sharding.NamedSharding) and sharding.mesh.size > 1:", "if False:", laws("scale_by_adam or adamw", "mesh")),
    Mutant("traced scalars forget the mesh", "return jax.lax.optimization_barrier((jnp.asarray(scalar), smallest))[0]", "return jnp.asarray(scalar)", laws("scale_by_learning_rate", "mesh")),
    Mutant("bias correction by a power", "jax.lax.neg(power)", "one - (one - c) ** t", "tests/core/test_leafwise.py"),
    Mutant("the root's slope is infinite", "slope = jnp.where(positive, half / jnp.where(positive, root, jnp.ones((), x.dtype)), x * half * 0)", "slope = half / root", laws("scale_by_adam or scale_by_rms", "gradients")),
    Mutant("absent gradients change the rest", "tuple([column[index] for column in columns[:width]])", "(None,) * width", laws("scale_by_adam", "none"), "_leafwise.py"),
    Mutant("outputs keep their own dtype", "matched = with_sharding_of(leaf if leaf.dtype == like.dtype else in_dtype_of(leaf, like), like)", "matched = with_sharding_of(leaf, like)", "tests/laws/test_trees.py -k promoted"),
    Mutant("gradients are not promoted", "new = g.astype(promote(g.dtype, p.dtype))", "new = g", laws("adamw or scale or identity", "promoted or dtype")),
    Mutant("promotion forgets float16 beside bfloat16", "return np.dtype(np.float32) if a.itemsize > 1 else np.dtype(jnp.bfloat16)", "return a", laws("adamw or scale", "promoted")),
    Mutant("shapes are not compared", "if shapes and not is_absent(leaf) and not is_absent(like) and np.shape(leaf) != np.shape(like):", "if False:", laws("scale_by_adam or clip", "wrong or other_parameters")),
    Mutant("another's state is taken", "if not is_empty and not isinstance(inner, signature.state_type):", "if False:", laws("scale_by_adam or ema", "state_of_another or swapped")),
    Mutant("parameters are not asked for", "if signature.needs_params and params is None:", "if False:", "tests/transforms/test_transform_mistakes.py tests/wrappers/test_lookahead.py"),
    Mutant("integers are taken", "wrong = [leaf for leaf in jax.tree.leaves(tree) if not is_trainable(leaf)]", "wrong: list[Any] = []", laws("scale_by_adam or clip", "integers or keys")),
    Mutant("complex leaves are taken by real stages", "wrong = [leaf for leaf in jax.tree.leaves(tree) if is_trainable(leaf) and is_complex(leaf.dtype)]", "wrong: list[Any] = []", laws("clip or lion", "complex")),
    Mutant("schedules see the step after", "value_at(schedule, step, name) for", "value_at(schedule, step + 1, name) for", laws("scale_by_adam or adamw", "schedule"), "_scheduled.py"),
    Mutant("an eager update keeps the first numbers", "result = program.call(not context.stack, self.numbers, updates, state, params, extra)", "result = program.call(not context.stack, [n * 0 + 0.5 if type(n) is float else n for n in self.numbers], updates, state, params, extra)", laws("scale_by_adam or sgd", "jit"), "_eager.py"),
    Mutant("an eager update mistakes its operands", "sources = tuple(places.get(id(leaf)) for leaf in leaves)", "sources = tuple(0 if id(leaf) in places else None for leaf in leaves)", "tests/core/test_eager.py", "_eager.py"),
    Mutant("a decay may be 1", "Decay = Annotated[ScalarOrSchedule, Interval(0.0, 1.0, high_open=True)]", "Decay = Annotated[ScalarOrSchedule, Interval(0.0, 1.0)]", "tests/core/test_mistakes.py"),
    Mutant("clip_by_global_norm sums locally", "size, power = scaled_norm(updates, sum_axes(axis_name, updates))", "size, power = scaled_norm(updates, ())", "tests/transforms/test_transform_shard_map.py -k clip_by_global_norm", "_clip_norm.py"),
    Mutant("sm3 is called packable", '@transformation(leaves="real")\ndef scale_by_sm3', '@transformation(leaves="real", packable=True)\ndef scale_by_sm3', "tests/laws/test_packed.py -k sm3", "_sm3.py"),
    # A call: its checks, its arguments, its containers.
    Mutant("new states share buffers", "new_state = without_aliases(new_state, params)", "pass", "tests/wrappers/test_metrics.py -k buffer", "_call.py"),
    Mutant("float0 is a gradient", "updates = without_float0(as_arrays(updates))", "updates = as_arrays(updates)", "tests/core/test_programs_of_the_field.py"),
    Mutant("functions are parameters", "params = as_arrays(without_untrained(params, updates))", "params = as_arrays(params)", "tests/core/test_programs_of_the_field.py"),
    Mutant("misspelled extra arguments pass", "check_extra_names(extra, stage.takes)", "pass", "tests/core/test_compose.py", "_call.py"),
    Mutant("chain takes any state", 'if not isinstance(state, tuple) or hasattr(state, "_fields") or len(state) != len(stages):', "if False:", laws("chain", "state")),
    Mutant("stages have no labels", "twin.label = label", "twin.label = None", "tests/core/test_reports.py"),
    Mutant("plain pairs need parameters", "_replace(needs_params=False)", "_replace(needs_params=True)", "tests/core -k 'plain or pair or optax'"),
    Mutant("third-party functions are compiled in", "return all(name in numbers or _is_plain(value) for name, value in expression.arguments.items())", "return True", "tests/core/test_eager.py"),
    Mutant("a failed program is tried again", "program.is_refused = True", "pass", "tests/core/test_eager.py"),
    Mutant("apply_updates adds in the narrow dtype", "return (p.astype(wide) + with_sharding_of(u.astype(wide), p)).astype(p.dtype)", "return p + with_sharding_of(u.astype(p.dtype), p)", "tests/core/test_compose.py"),
    # Values: keys, addresses, arguments.
    Mutant("0.0 equals -0.0", "return float, value.hex()", "return float, value", "tests/core/test_values.py"),
    Mutant("siblings share an address", "if total[label] > 1:", "if total[label] > 9:", "tests/core/test_addresses.py"),
    Mutant("an ambiguous address takes the first", "if len(matches) == 1:", "if matches:", "tests/core/test_addresses.py"),
    Mutant("arguments are not frozen", "copy = np.array(value)", "copy = value.view()", "tests/core/test_values.py"),
    Mutant("functions take numbers out of range", "if concrete is not None and not self._has(concrete):", "if False:", "tests/test_wrong_inputs.py"),
    Mutant("functions take leaves of any kind", "            if not self.fits(leaf):\n", "            if False:\n", "tests/test_wrong_inputs.py", "_checked.py"),
    Mutant("labels need not cover the parameters", "        if prefix is None:\n            raise ValueError(", "        if False:\n            raise ValueError(", "tests/wrappers/test_partition.py tests/wrappers/test_masked.py tests/core/test_selectors.py", "_masks.py"),
    # Trees.
    Mutant("norm: overflow is not seen", "jnp.where(square < small, up, jnp.where(square > large, down, one))", "jnp.where(square < small, up, one)", "tests/tree/test_norm.py"),
    Mutant("norm: the small band does not count", "jnp.where(is_large, if_large, jnp.where(is_small, if_small, otherwise))", "jnp.where(is_large, if_large, otherwise)", "tests/tree/test_norm.py tests/core/test_platform.py"),
    Mutant("norm: the largest is local", "result = jax.lax.pmax(result, axis_name) + jax.lax.psum(nan_of(result), axis_name)", "pass", "tests/tree/test_norm.py tests/tree/test_sharding.py"),
    Mutant("update_moment: in the narrow dtype", "wide = compute_dtype(promote(g.dtype, m.dtype) if is_inexact(g.dtype) else m.dtype)", "wide = m.dtype", "tests/tree/test_moments.py"),
    Mutant("map_params: masked parameters are mapped", "return not chosen(x) and not jax.tree.leaves(x)", "return False", "tests/tree/test_map_params.py"),
    # Checkpoints.
    Mutant("load: checksums are not compared", "if sums[name] != _checksum(array):", "if False:", "tests/test_checkpoint_files.py"),
    Mutant("load_state_dict: counters that differ", "if self.strict and not self._are_equal(found):", "if False:", "tests/test_checkpoint.py"),
    Mutant("load_state_dict: counters are kept without moments", "self.reset.add(name)\n", "pass\n", "tests/test_checkpoint.py"),
    Mutant("load_state_dict: pairs by name alone", "if name in saved and saved[name].place.rule == mine.place.rule", "if name in saved", "tests/test_checkpoint.py"),
    # Conditional wrappers.
    Mutant("a step that is not taken reports", "lambda like: jnp.full(like.shape, missing(), like.dtype)", "lambda like: jnp.zeros(like.shape, like.dtype)", "tests/core/test_reports.py tests/wrappers/test_guard.py tests/wrappers/test_accumulate.py tests/wrappers/test_metrics.py"),
    Mutant("select: the new state of a skipped step", "return jax.lax.select(take, new, old)", "return new", "tests/core/test_platform.py tests/wrappers/test_guard.py", "_conditional.py"),
]  # fmt: skip


class Result(NamedTuple):
    """What the tests made of a mutant."""

    name: str
    outcome: str
    seconds: float
    first: str


def place_of(mutant: Mutant, root: Path) -> Path:
    """The one file in which the mutant's text occurs."""
    found = [
        (path, path.read_text().count(mutant.old)) for path in sorted((root / "gradflow").rglob(mutant.file))
    ]
    found = [(path, count) for path, count in found if count]
    if [count for _, count in found] != [1]:
        raise LookupError(f"{mutant.name}: {mutant.old!r} must occur once; it does in {found or 'no file'}")
    return found[0][0]


def copy_of(root: Path, into: Path) -> Path:
    """What the tests need of a checkout, apart from it."""
    for name in ("gradflow", "tests", "benchmarks", "notebooks"):
        shutil.copytree(root / name, into / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(root / name, into / name)
    return into


def wide(mutant: Mutant) -> str:
    """All tests that may be concerned: those of the rooms, and the laws over the cases that are named."""
    words = mutant.tests.split("'")
    chosen = words[1].split(") and (")[0].strip("()") if len(words) > 1 else ""
    return f"tests/laws -k '{chosen}'" if "tests/laws" in mutant.tests else mutant.tests.split(" -k ")[0]


def run(tests: str, root: Path) -> tuple[int, str]:
    """The exit code of pytest, and the first test that failed."""
    command = f"{sys.executable} -m pytest -n 0 -x -p no:cacheprovider -q --no-header --tb=no {tests}"
    done = subprocess.run(
        command, shell=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )  # fmt: skip
    lines = (done.stdout + done.stderr).splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (failed or lines[-1:] or [""])[0]


def outcome_of(mutant: Mutant, root: Path, tests: str) -> Result:
    """Runs the tests on the copy with the mutant in it."""
    try:
        path = place_of(mutant, root)
    except LookupError as error:
        return Result(mutant.name, "not placed", 0.0, str(error))
    text, began = path.read_text(), time.monotonic()

    def write(text: str) -> None:
        path.write_text(text)
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()  # its time stamp may be the same

    try:
        write(text.replace(mutant.old, mutant.new))
        code, first = run(tests, root)
    finally:
        write(text)
    outcome = {0: "survived", 1: "killed", 2: "killed"}.get(code, f"no tests ran ({code})")
    return Result(mutant.name, outcome, time.monotonic() - began, first)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="run the mutants whose names have one of these words")
    parser.add_argument("--wide", action="store_true", help="run all tests of the rooms concerned")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the checkout whose package and tests are used"
    )
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.words or any(word in m.name for word in options.words)]
    results = []
    with tempfile.TemporaryDirectory() as directory:
        root = copy_of(options.root.resolve(), Path(directory))
        for mutant in chosen:
            tests = wide(mutant) if options.wide else mutant.tests
            results.append(outcome_of(mutant, root, tests))
            print(f"{results[-1].outcome:10} {results[-1].seconds:5.0f} s  {results[-1].name:48} "
                  f"{results[-1].first[:100]}", flush=True)  # fmt: skip
    killed = sum(result.outcome == "killed" for result in results)
    print(f"{killed} of {len(results)} killed")
    return int(killed < len(results))


if __name__ == "__main__":
    sys.exit(main())
