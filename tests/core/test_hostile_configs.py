"""Configurations and texts from anywhere: bounded, refused with a clear error, and nothing is executed."""

import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import lab

ADAM = {"factory": "adam", "arguments": {"learning_rate": 0.1}}


def _nested(depth: int) -> Any:
    config: Any = ADAM
    for _ in range(depth):
        config = {"factory": "chain", "arguments": {"args": [config]}}
    return config


def _cyclic() -> Any:
    config: Any = {"factory": "chain", "arguments": {"args": []}}
    config["arguments"]["args"].append(config)
    return config


class _Trap:
    """Runs code as soon as it is pickled, called, printed or compared."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)

    def __call__(self, *args: Any) -> Any:
        os._exit(3)

    def __repr__(self) -> str:
        os._exit(3)


HOSTILE: dict[str, tuple[Any, str]] = {
    "not a dict": ("adam(0.1)", "must be a dict with 'factory'"),
    "a list": ([ADAM], "must be a dict with 'factory'"),
    "no factory": ({"arguments": {}}, "must be a dict with 'factory'"),
    "unknown": ({"factory": "adem", "arguments": {}}, "no factory 'adem'. Did you mean 'adam'"),
    "a module": ({"factory": "os.system", "arguments": {"command": "true"}}, "no factory 'os.system'"),
    "a dunder": ({"factory": "__import__", "arguments": {}}, "no factory '__import__'"),
    "a private name": ({"factory": "_adam", "arguments": {}}, "no factory '_adam'"),
    "a number as name": ({"factory": 3, "arguments": {}}, "no factory 3"),
    "a list as name": ({"factory": ["adam"], "arguments": {}}, "no factory a list of length 1"),
    "arguments in a list": ({"factory": "adam", "arguments": [0.1]}, "arguments must be a dict by name"),
    "arguments by number": ({"factory": "adam", "arguments": {1: 0.1}}, "arguments must be a dict by name"),
    "an unknown argument": ({"factory": "adam", "arguments": {"rate": 0.1}}, "adam: "),
    "no rate": ({"factory": "adam", "arguments": {}}, "adam: missing a required argument"),
    "a text as rate": ({"factory": "adam", "arguments": {"learning_rate": "0.1"}}, "adam: argument 'learn"),
    "an object": ({"factory": "adam", "arguments": {"learning_rate": _Trap()}}, "must be one that to_config"),
    "code as rate": (
        {"factory": "adam", "arguments": {"learning_rate": os._exit}},
        "must be one that to_con",
    ),
    "a huge count": (
        {"factory": "muon", "arguments": {"learning_rate": 0.1, "ns_steps": 10**9}},
        "argument 'ns_steps' must be a whole number >= 1 and <= 10000; got 1000000000",
    ),
    "deep": (_nested(500), "must nest at most 200 entries"),
    "without an end": (_cyclic(), "must nest at most 200 entries"),
    "large": (
        {"factory": "chain", "arguments": {"args": [1.0] * 200_000}},
        "must have at most 100000 entries",
    ),
    "many arguments of a chain in a dict": (
        {"factory": "chain", "arguments": {"args": {"dict": []}}},
        "argument 'args' of chain must be a list",
    ),
    "an unknown entry": (
        {"factory": "scale", "arguments": {"step_size": {"eval": "1"}}},
        "one that to_config",
    ),
    "an unknown record": (
        {"factory": "scale", "arguments": {"step_size": {"record": "Popen", "fields": {}}}},
        "no record 'Popen'",
    ),
    "fields that a record has not": (
        {"factory": "scale", "arguments": {"step_size": {"record": "Matrix", "fields": {"x": 1}}}},
        "the record Matrix has no field 'x'",
    ),
    "objects as dtype": (
        {"factory": "scale", "arguments": {"step_size": {"array": [1], "dtype": "object"}}},
        "one that to_config writes",
    ),
    "no dtype": (
        {"factory": "scale", "arguments": {"step_size": {"array": [1], "dtype": "nonsense"}}},
        "one that to_config writes",
    ),
    "texts that fill a memory": (
        {"factory": "scale", "arguments": {"step_size": {"scalar": 1, "dtype": "S4000000"}}},
        "one that to_config writes",
    ),
    "a dict within a key": (
        {"factory": "partition", "arguments": {"transforms": {"dict": [[[1, {"dict": []}], 1]]}}},
        "one that to_config writes",
    ),
    "numbers as names of injected arguments": (
        {
            "factory": "injected",
            "arguments": {"inner_factory": {"function": "adam"}, "arguments": {"dict": [[3, 1]]}},
        },
        "injected: argument 'arguments' must be a dict by name",
    ),
    "a long unknown argument": (
        {"factory": "adam", "arguments": {"learning_rate": 0.1, "x" * 9000: 0.1}},
        "adam: got an unexpected keyword argument 'xxx",
    ),
    "a ragged array": (
        {"factory": "scale", "arguments": {"step_size": {"array": [[1], 2], "dtype": "float32"}}},
        "one that to_config writes",
    ),
    "an unknown generator": (
        {"factory": "add_noise", "arguments": {"key": {"prng_key": [0, 1], "impl": "os"}}},
        "one that to_config writes",
    ),
    "a complex number of three": (
        {"factory": "scale", "arguments": {"step_size": {"complex": [1, 2, 3]}}},
        "one that to_config writes",
    ),
    "pairs of three": (
        {"factory": "partition", "arguments": {"transforms": {"dict": [[1, 2, 3]]}}},
        "one that to_config writes",
    ),
    "a function that is not ours": (
        {"factory": "inject_hyperparams", "arguments": {"inner_factory": {"function": "exec"}}},
        "no factory",
    ),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_hostile_configurations_are_refused(case: str) -> None:
    config, words = HOSTILE[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        gf.from_config(config)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_deep_and_large_configurations_of_ours_are_read() -> None:
    deep: Any = gf.scale(0.5)
    for _ in range(40):
        deep = gf.chain(deep, gf.clip(1.0))
    table = gf.scale(jnp.float32(2))
    keyed = gf.add_noise(0.1, 0.5, jax.random.key(3))
    for tx in (
        deep,
        table,
        keyed,
        gf.sgd(np.float32(0.1)),
        gf.partition({gf.ndim(2): gf.muon(0.1), "**": gf.sgd(1.0)}),
    ):
        again = gf.from_config(json.loads(json.dumps(gf.to_config(tx))))
        assert repr(again) == repr(tx)


TEXTS = {
    "": "must be an expression",
    "adam": "must be an expression|a call such as",
    "__import__('os').system('true')": "must call factories by name",
    "adam(0.1).init.__globals__": "must call|must consist|no factory",
    "(lambda: 0)()": "must call factories by name",
    "[x for x in (1,)]": "must consist of literals",
    "adam(open('/etc/passwd'))": "no factory",
    "adam(f'{1}')": "must consist of literals",
    "adam(0.1 if True else 0.2)": "must consist of literals",
    "adam(9**9**9)": "must consist of literals",
    "adam(*[0.1])": "without '\\*'",
    "adam(**{'learning_rate': 0.1})": "without '\\*\\*'",
    "adam(0.1); adam(0.2)": "must be an expression",
    "adam(0.1\0)": "must be an expression",
    "muon(0.1, ns_steps=1000000000)": "argument 'ns_steps' must be a whole number >= 1 and <= 10000",
    "chain(" * 60 + "adam(0.1)" + ")" * 60: "must nest at most 50",
    "(" * 5000 + ")" * 5000: "must nest at most 50|must be an expression",
    "-" * 5000 + "1": "must",
    "adam(" + "0" * 30000 + ")": "at most 20000 characters",
    "scale({[]: 1})": "must",
    "scale({{}: 1})": "must",
    "adam(0.1, b1=0.9, b1=0.8)": "must give 'b1' once",
    "adam(" + "1" * 5000 + ")": "must",
    "adam(0.1, self=1)": "adam: got an unexpected keyword argument 'self'",
    "adam(0.1, " + "x" * 9000 + "=1)": "adam: got an unexpected keyword argument 'xxx",
    "x" * 9000 + "(0.1)": "no factory is called 'xxx",
    "__builtins__": "no factory is called '__builtins__'. There are .* and [0-9]+ more",
}


@pytest.mark.parametrize("text", list(TEXTS), ids=lambda text: text[:30].replace("\0", "nul"))
def test_hostile_texts_are_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=TEXTS[text]) as caught:
        lab.parse(text)
    assert len(str(caught.value)) < 800
