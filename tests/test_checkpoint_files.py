"""Files of states: whole or refused, whatever happens to the process or to the file."""

import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.checkpoint import load, load_state_dict, save, state_dict

PARAMS = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}
TX = gf.chain(
    gf.clip_by_global_norm(1.0), gf.adamw(0.1, mu_dtype=jnp.bfloat16), gf.add_noise(0.1, 0.5, key=3)
)
ENDINGS = (".npz", ".safetensors")


def _state() -> Any:
    _, state = TX.update(PARAMS, TX.init(PARAMS), PARAMS)
    return state


@pytest.fixture(params=ENDINGS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"run{request.param}"
    save(path, {**state_dict(TX, _state()), "step": 7})
    return path


def test_a_state_comes_back_bit_for_bit(saved: Path) -> None:
    d = load(saved)
    assert d.pop("step") == 7
    state, report = load_state_dict(TX, PARAMS, d)
    assert not report.new
    assert not report.dropped
    for got, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(_state()), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


def test_big_endian_numbers_come_back_as_numbers(saved: Path) -> None:
    wanted = np.arange(3, dtype=">f4")
    save(saved, {"a": wanted})
    np.testing.assert_array_equal(load(saved)["a"], wanted)


def test_other_programs_read_the_files(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    d = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "file": np.asarray(True),
        "none": np.zeros((0, 2)),
    }
    for ending, read in ((".npz", np.load), (".safetensors", load_file)):
        save(tmp_path / f"x{ending}", d)
        found = read(tmp_path / f"x{ending}")
        for name, array in d.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    place = len(data) // 3
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


MISTAKES: dict[str, Callable[[bytes], bytes]] = {
    "cut in the middle": _cut,
    "one byte is missing": lambda data: data[:-1],
    "empty": lambda data: b"",
    "one bit has changed": _flip,
    "noise": lambda data: bytes(reversed(data)),
    "a page": lambda data: b"<html>404</html>",
    "a pickle": lambda data: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_damaged_files_are_refused_by_name(saved: Path, mistake: str) -> None:
    saved.write_bytes(MISTAKES[mistake](saved.read_bytes()))
    with pytest.raises(ValueError, match=str(saved)):
        load(saved)


def test_every_changed_bit_is_noticed(tmp_path: Path) -> None:
    """A bit that no array is made of, such as a date, may change; the arrays may not."""
    for ending in ENDINGS:
        path = tmp_path / f"small{ending}"
        d = {"a": np.arange(3.0), "b": np.arange(2)}
        save(path, d)
        data = path.read_bytes()
        refused = 0
        for place in range(0, len(data), 4):
            path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            try:
                found = load(path)
            except ValueError:
                refused += 1
                continue
            assert found.keys() == d.keys()
            for name in d:
                np.testing.assert_array_equal(found[name], d[name])
        assert refused > len(data) // 12


def test_foreign_and_renamed_files_are_refused_by_name(tmp_path: Path, saved: Path) -> None:
    other = saved.with_suffix(".npz" if saved.suffix == ".safetensors" else ".safetensors")
    other.write_bytes(saved.read_bytes())
    with pytest.raises(
        ValueError, match=f"'{other}' must be a {other.suffix} file; its content is of another"
    ):
        load(other)
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, a=np.ones(2))
    with pytest.raises(ValueError, match=r"must be written by gradflow.checkpoint.save; it has no checksums"):
        load(foreign)
    with np.load(saved) if saved.suffix == ".npz" else np.load(foreign) as found:
        entries = dict(found)
    if "gradflow_checksums" in entries:
        np.savez(foreign, **{**entries, "extra": np.ones(1)})
        with pytest.raises(ValueError, match="the entry 'extra' was added"):
            load(foreign)
        entries["step"] = np.asarray(8)
        np.savez(foreign, **entries)
        with pytest.raises(ValueError, match="the entry 'step' has changed"):
            load(foreign)
        del entries["step"]
        np.savez(foreign, **entries)
        with pytest.raises(ValueError, match="the entry 'step' is missing"):
            load(foreign)
        np.savez_compressed(foreign, **entries)
        with pytest.raises(ValueError, match="is compressed"):
            load(foreign)
    objects = tmp_path / "objects.npz"
    np.savez(objects, a=np.array([object()], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"must be a whole .npz file"):
        load(objects)


def _npz(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def _npy(header: str, data: bytes = bytes(24)) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def _safetensors(header: str) -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + bytes(24)


_FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}\n"
_BYTES = "{'descr': '|u1', 'fortran_order': False, 'shape': (100000,)}\n"
_ENTRY = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
# What the headers of a file may claim; the words of the error.
LIES: dict[str, tuple[bytes, str]] = {
    "more than a memory.npz": (_npz({"a.npy": _npy(_FLOATS % 10**13)}), "must be a whole .npz file"),
    "more than an integer.npz": (
        _npz({"a.npy": _npy(_FLOATS % f"0, {10**22}")}),
        "must be a whole .npz file",
    ),
    "brackets.npz": (_npz({"a.npy": _npy("[" * 6000 + "]" * 6000)}), "must be a whole .npz file"),
    "deep checksums.npz": (
        _npz({"gradflow_checksums.npy": _npy(_BYTES, b"[" * 100_000)}),
        "must be a whole .npz file",
    ),
    "twice.npz": (_npz({"a.npy": _npy(_FLOATS % 6), "a": _npy(_FLOATS % 6)}), "the entry 'a' is there twice"),
    "deep.safetensors": (_safetensors('{"a":' * 20_000), "must be a whole .safetensors file"),
    "twice.safetensors": (
        _safetensors(f'{{"a": {_ENTRY}, "a": {_ENTRY}}}'),
        "name in its header is there twice",
    ),
    "long name.safetensors": (
        _safetensors(f'{{"{"a" * 9000}": {_ENTRY}, "__metadata__": {{"gradflow_checksums": "{{}}"}}}}'),
        "was added",
    ),
}


@pytest.mark.parametrize("name", list(LIES))
def test_headers_that_lie_are_refused_by_name(tmp_path: Path, name: str) -> None:
    data, words = LIES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=name) as caught:
        load(tmp_path / name)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 600


def test_what_cannot_be_saved_leaves_the_older_file(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError, match="save: entry 'a' must be an array of numbers by name; got 'text'"):
        save(saved, {"a": "text"})
    with pytest.raises(ValueError, match=r"must end in .npz or .safetensors; got 'run.txt'"):
        save(saved.with_suffix(".txt"), {})
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    with pytest.raises(FileNotFoundError):
        load(saved.with_name("other.npz"))


# Children are forked before jax runs, and end without the parent's exit handlers. One that is to be killed
# never ends by itself, and no wait has a limit, so that a slow machine changes nothing but the time.
_FORKED = """
import os, random, signal, sys, time

def forked(work, *arguments):
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        except BaseException as error:
            print("failed", error, flush=True)
            os._exit(1)
        os._exit(0)
    return child

def ends_well(child):
    return os.waitpid(child, 0)[1] == 0

def kill_after_a_change(look, within, *call):
    before = look()
    child = forked(*call)
    while look() == before:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child ended before it was killed"
        time.sleep(0.002)
    time.sleep(random.uniform(0.0, within))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])

random.seed(5)
"""


def run_script(script: str, folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FORKED + script, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(gf.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


# Forks a trainer three times and kills two of them at a random time, in a step or in a save.
_KILLER = """
import itertools
import numpy as np
import gradflow as gf
from gradflow.checkpoint import load, load_state_dict, save, state_dict

STEPS, path = 30, sys.argv[1]

def train(path, stop):
    import jax.numpy as jnp
    tx = gf.sgd(gf.linear_schedule(0.05, 0.0, STEPS), momentum=0.9)
    params, step = {"w": jnp.linspace(-1, 1, 50_000)}, 0
    state = tx.init(params)
    if os.path.exists(path):
        d = load(path)
        step, params = int(d.pop("step")), {"w": jnp.asarray(d.pop("w"))}
        state, report = load_state_dict(tx, params, d)
        assert not report.new and not report.dropped
    while step < STEPS:
        if step < stop:
            updates, state = tx.update(params, state, params)
            params, step = gf.apply_updates(params, updates), step + 1
        save(path, {**state_dict(tx, state), "w": params["w"], "step": step})

def write(path, first):
    for number in itertools.count(first):
        save(path, {"number": number, "copies": np.full(50_000, number)})

def stamp(path):
    return os.path.exists(path) and (os.stat(path).st_ino, os.stat(path).st_mtime_ns)

for first in range(0, 20_000, 1000):
    kill_after_a_change(lambda: stamp("saves" + path), 0.05, write, "saves" + path, first)
    d = load("saves" + path)
    assert d["number"] >= first and (d["copies"] == d["number"]).all() and d["copies"].size == 50_000
assert ends_well(forked(train, "whole" + path, STEPS))
for stop in 10, 20:
    kill_after_a_change(lambda: stamp(path), 0.03, train, path, stop)
    assert load(path)["step"] <= stop
assert ends_well(forked(train, path, STEPS))
a, b = load("whole" + path), load(path)
assert a.keys() == b.keys() and a["step"] == STEPS
assert all(a[name].tobytes() == b[name].tobytes() for name in a), "not bitwise"
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, ending: str) -> None:
    run_script(_KILLER, tmp_path, f"run{ending}")


# The same with orbax, whose directories are whole once they have their final name.
_ORBAX_KILLER = """
import numpy as np, orbax.checkpoint as ocp
import gradflow as gf

STEPS, here = 4, os.getcwd()

def train(path, stop):
    import jax, jax.numpy as jnp
    tx = gf.chain(gf.adamw(gf.linear_schedule(0.05, 0.0, STEPS)), gf.add_noise(0.01, 0.5, key=3))
    params, step = {"w": jnp.linspace(-1, 1, 100_000)}, 0
    state = tx.init(params)
    read = ocp.args.StandardRestore((params, jax.eval_shape(tx.init, params)))
    with ocp.CheckpointManager(path) as manager:
        if manager.latest_step() is not None:
            step = manager.latest_step()
            params, state = manager.restore(step, args=read)
        while step < STEPS:
            if step == stop:
                time.sleep(3600)
            updates, state = tx.update(params, state, params)
            params, step = gf.apply_updates(params, updates), step + 1
            manager.save(step, args=ocp.args.StandardSave((params, state)))
        manager.wait_until_finished()
        np.savez(path, *jax.tree.leaves(manager.restore(STEPS, args=read)))

def entries(path):
    return set(os.listdir(path)) if os.path.exists(path) else set()

assert ends_well(forked(train, here + "/whole", STEPS))
kill_after_a_change(lambda: entries(here + "/killed"), 0.1, train, here + "/killed", 2)
assert not os.path.exists("killed.npz")
assert ends_well(forked(train, here + "/killed", STEPS))
a, b = np.load("whole.npz"), np.load("killed.npz")
assert a.files == b.files and all(a[name].tobytes() == b[name].tobytes() for name in a.files)
"""


def test_a_killed_run_with_orbax_resumes_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("orbax.checkpoint")
    run_script(_ORBAX_KILLER, tmp_path)


def test_sixteen_threads_build_and_step_at_once() -> None:
    def build(number: int) -> Any:
        rate = 0.01 * (1 + number % 4)
        return gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(rate, b1=0.5 + 0.01 * number), gf.trace(0.5))

    def train(number: int) -> Any:
        tx = build(number)
        params = {"w": jnp.linspace(-1.0, 1.0, 5) * (number + 1)}
        state = tx.init(params)
        with gf.collecting() as reports:
            for _ in range(3):
                updates, state = tx.update(params, state, params)
                params = gf.apply_updates(params, updates)
        assert tx == build(number)
        assert gf.from_config(json.loads(json.dumps(gf.to_config(tx)))) == tx
        gf.summary(tx, params)
        return jax.device_get((params, state)), sorted(reports.values)

    barrier, results, failures = threading.Barrier(16), {}, []

    def run(number: int) -> None:
        try:
            barrier.wait()
            results[number] = train(number)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for number in range(16):
        (tree, names), (alone, names_alone) = results[number], train(number)
        assert names == names_alone
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(a, b)
