"""Which leaves are matrices: a choice by path, and the usual one, the hidden matrices of a network."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax

from gradflow._errors import describe
from gradflow._expressions._factory import decorate
from gradflow._expressions._functions import FunctionValue, register_functions
from gradflow._selection._parameters import Parameter, named_leaves
from gradflow._selection._selectors import as_selector
from gradflow._types import is_absent
from gradflow.matrices._matrix import Matrix

Choose = Callable[[Sequence[Parameter]], list[Matrix | None]]


class MatrixChoice(FunctionValue):
    """A choice of matrices. Called on a tree it gives a tree of `Matrix`, and of None for other leaves."""

    __slots__ = ()

    def __call__(self, params: Any) -> Any:
        named, structure = named_leaves(params)
        chosen = self.choose(named)
        leaves = [p.leaf if is_absent(p.leaf) else c for p, c in zip(named, chosen, strict=True)]
        return jax.tree.unflatten(structure, leaves)

    def choose(self, parameters: Sequence[Parameter]) -> list[Matrix | None]:
        """The matrix that each of these parameters is, or None; absent ones have a path all the same."""
        return cast(list[Matrix | None], self._function(parameters))


register_functions("matrices", MatrixChoice)


def _choice(body: Callable[..., Choose]) -> Callable[..., MatrixChoice]:
    return decorate(body, "matrices")


# Names within a path, in lower case. A token or position table is not a linear map of activations.
_TABLES = re.compile(r"embed|^(wte|wpe)$|(^|_)emb$|(^|_)pos(ition(al)?s?)?(_|$)|vocab")
_HEADS = re.compile(r"(^|_)(head|logits|classifier|readout)(_?\d+)?$")
# The largest window of a convolution; longer first axes count layers or heads.
_LARGEST_WINDOW = 16


@_choice
def hidden_matrices() -> Choose:
    """Chooses a network's hidden matrices: leaves (in, out), and convolutions (height, width, in, out).

    Embeddings, positions and heads are recognized by the names in their paths, such as `embedding`, `wte`,
    `pos_embed` and `lm_head`, and are not chosen. Nor are leaves of other ranks: scanned layers, experts and
    heads need `choose_matrices`.

    >>> hidden_matrices()({"kernel": jax.numpy.ones((4, 3)), "lm_head": {"kernel": jax.numpy.ones((3, 9))}})
    {'kernel': Matrix(inputs=0, outputs=1, split=None), 'lm_head': {'kernel': None}}
    """
    return lambda parameters: [_hidden_matrix(p) for p in parameters]


def _hidden_matrix(parameter: Parameter) -> Matrix | None:
    shape = getattr(parameter.leaf, "shape", ())
    if is_table_or_head(parameter.path):
        return None
    if len(shape) == 2:
        return Matrix()
    if len(shape) == 4 and max(shape[:2]) <= _LARGEST_WINDOW:
        return Matrix((0, 1, 2), 3)
    return None


def is_table_or_head(path: Sequence[str]) -> bool:
    """Whether the names on a path say that a parameter is an embedding, positions or a head."""
    return is_table(path) or is_head(path)


def is_table(path: Sequence[str]) -> bool:
    """Whether the names on a path say that a parameter is an embedding of tokens or positions."""
    return any(_TABLES.search(name.lower()) for name in path)


def is_head(path: Sequence[str]) -> bool:
    """Whether the names on a path say that a parameter is a head."""
    return any(_HEADS.search(name.lower()) for name in path)


@_choice
def choose_matrices(rules: Mapping[Any, Matrix | None]) -> Choose:
    """Chooses matrices by path or selector; the first rule that matches a parameter wins.

        choose_matrices({"**/qkv": Matrix(split={1: 3}), "**/experts/*": Matrix(1, 2), "head/**": None})

    Args:
      rules: `Matrix`, or None for what is not a matrix, by pattern of paths or selector. Parameters that no
        rule matches are as `hidden_matrices` has them; `"**": None` as the last rule leaves them out.

    Raises ValueError, when called, for a pattern that matches no parameter.
    """
    if not isinstance(rules, Mapping) or not rules:
        raise TypeError(
            f"choose_matrices: argument 'rules' must be a dict of Matrix or None; got {describe(rules)}"
        )
    for key, value in rules.items():
        if value is not None and not isinstance(value, Matrix):
            raise TypeError(
                f"choose_matrices: the value for {key!r} must be a Matrix or None; got {describe(value)}"
            )
    selectors = [(as_selector(key), value) for key, value in rules.items()]

    def choose(parameters: Sequence[Parameter]) -> list[Matrix | None]:
        hits = [(selector.choose(parameters), value) for selector, value in selectors]
        return [
            next((value for hit, value in hits if hit[i]), _hidden_matrix(parameter))
            for i, parameter in enumerate(parameters)
        ]

    return choose
