"""Different transformations for different parameters."""

import functools
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from gradflow._calls._checks import refuse_state
from gradflow._calls._context import stage_name
from gradflow._core._compose import identity, set_to_zero
from gradflow._core._decorators import transformation
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._printing import show
from gradflow._selection._inner_arguments import part_arguments
from gradflow._selection._masks import check_mask, choose_by_shape, resolve_labels, resolve_mask
from gradflow._selection._parameters import named_leaves
from gradflow._selection._partial_trees import mask_out, merge
from gradflow._selection._selectors import Selector, as_selector, paths
from gradflow._selection._stacks import per_leaf
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates, is_absent
from gradflow.transforms import scale
from gradflow.wrappers._masked import MaskedState, labels_in, masked


class PartitionState(NamedTuple):
    """The state of each transformation by label, with a `MaskedNode` for every leaf of another label."""

    inner_states: Mapping[Hashable, MaskedState]


MultiTransformState = PartitionState


@transformation(packable=True)
def partition(
    transforms: Mapping[Hashable, GradientTransformation],
    param_labels: Any = None,
    *,
    mask_compatible_extra_args: bool = False,
) -> Pair:
    """Applies to each parameter the transformation of its label.

        partition({"**/embedding": sgd(0.1), ndim(2): muon(0.02), "**": adamw(1e-3)})
        partition({"body": adamw(1e-3), "head": sgd(0.1)}, {"encoder": "body", "out": "head"})

    Args:
      transforms: transformations by label; without `param_labels`, by pattern of paths or by selector. The
        first pattern that matches a parameter wins.
      param_labels: tree of labels or a prefix of one, or a function from the parameters to one. Without
        parameters, `update` reads the choice from the state, or else calls it on the updates' shapes.
      mask_compatible_extra_args: also splits extra arguments that have the structure of the updates.

    Gradients and functions of the parameters among the extra arguments become those of each part, as in
    `masked`.

    Raises ValueError for a label without a transformation, for a parameter without a label or pattern, and
    for a pattern that matches no parameter.

    >>> import gradflow as gf
    >>> print(gf.partition({"head/**": gf.sgd(0.1), "**": gf.adamw(1e-3)}))
    partition({'head/**': sgd(0.1), '**': adamw(0.001)})
    """
    if not isinstance(transforms, Mapping) or not transforms:
        raise TypeError(
            f"partition: argument 'transforms' must be a dict of transformations; got {describe(transforms)}"
        )
    stages = {
        key if param_labels is not None or isinstance(key, str) else show(key): as_transformation(
            tx, "partition", f"the value for {key!r}"
        )
        for key, tx in transforms.items()
    }
    # jax sorts the keys of a dict, but keeps the order of an OrderedDict: for labels such as 'a' beside 7.
    by_label: Any = dict if _can_be_sorted(stages) else OrderedDict
    if param_labels is None:
        selectors = dict(zip(stages, map(_selector, transforms), strict=True))

    def labels_of(params: Params) -> Any:
        if param_labels is None:
            return per_leaf(functools.partial(_first_match, selectors), params)
        return resolve_labels(param_labels, stages, params)

    def init(params: Params) -> OptState:
        labels = labels_of(params)
        return PartitionState(
            by_label(
                (label, MaskedState(tx.init(mask_out(_is_of(labels, label), params))))
                for label, tx in stages.items()
            )
        )

    def update(
        updates: Updates, state: PartitionState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, PartitionState]:
        if not isinstance(state.inner_states, Mapping) or set(state.inner_states) != set(stages):
            refuse_state(f"a PartitionState of {', '.join(map(repr, stages))}", state)
        if params is not None:
            labels = labels_of(params)
        elif param_labels is not None and not callable(param_labels):
            labels = labels_of(updates)
        else:
            labels = labels_in(state.inner_states, updates)
            if labels is None:
                labels = choose_by_shape("labels", labels_of, updates)
        structure: Any = jax.tree.structure(updates)
        alike = {
            name: value
            for name, value in extra.items()
            if mask_compatible_extra_args and jax.tree.structure(value) == structure
        }
        new_states = by_label()
        parts = {}
        for label, tx in stages.items():
            mine = _is_of(labels, label)
            own = part_arguments(extra, mine, params)
            own |= {name: mask_out(mine, value) for name, value in alike.items()}
            inner = state.inner_states[label]
            parts[label], new = tx.update(
                mask_out(mine, updates),
                inner.inner_state if isinstance(inner, MaskedState) else refuse_state("a MaskedState", inner),
                None if params is None else mask_out(mine, params),
                **own,
            )
            new_states[label] = MaskedState(new)
        return merge(labels, parts, updates), PartitionState(new_states)

    return init, update


multi_transform = partition


def _can_be_sorted(labels: Iterable[Any]) -> bool:
    try:
        sorted(labels)
    except TypeError:
        return False
    return True


def _selector(key: Any) -> Selector:
    try:
        return as_selector(key)
    except TypeError:
        raise TypeError(
            "partition: keys of argument 'transforms' must be patterns of paths or selectors without "
            f"'param_labels'; got {describe(key)}"
        ) from None


def _first_match(selectors: Mapping[Hashable, Selector], params: Params) -> Any:
    """The tree of labels: for each parameter that of the first selector that chooses it."""
    parameters, structure = named_leaves(params)
    choices = {label: selector.choose(parameters) for label, selector in selectors.items()}
    labels: list[Any] = []
    for index, parameter in enumerate(parameters):
        label = next((label for label, chosen in choices.items() if chosen[index]), None)
        if label is None and not is_absent(parameter.leaf):
            raise ValueError(
                f"{stage_name()}: argument 'transforms' must have a key for the parameter at "
                f"'{'/'.join(parameter.path)}'; got {', '.join(map(repr, selectors))}. "
                "The key '**', as the last one, matches all that are left"
            )
        labels.append(parameter.leaf if is_absent(parameter.leaf) else label)
    return jax.tree.unflatten(structure, labels)


def _is_of(labels: Any, label: Hashable) -> Any:
    """The mask of the leaves of one label."""
    return jax.tree.map(lambda own: own if is_absent(own) else own == label, labels, is_leaf=is_absent)


@transformation
def freeze(mask: MaskOrFn) -> GradientTransformation:
    """Makes updates zero where `mask` is True; the others pass through. It holds no state.

    It belongs after an optimizer. `selective_transform` also saves the state of frozen parameters.

    Args:
      mask: tree of booleans or a prefix of one, a function from the parameters to one, a selector, or a
        pattern: `freeze("encoder/**")`.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.adam(1e-3), gf.freeze("encoder/**")))
    chain(adam(0.001), freeze('encoder/**'))
    """
    check_mask("freeze", "mask", mask)
    return masked(set_to_zero(), mask)


@transformation
def scale_by_path(factors: Mapping[Any, Any]) -> GradientTransformation:
    """Multiplies updates by a factor for each part of the parameters; the rest passes through.

        chain(adamw(1e-3), scale_by_path({"encoder/**": 0.1, "**/bias": 2.0}))

    Placed after an optimizer, the factors multiply its learning rate.

    Args:
      factors: numbers or schedules by pattern of paths or selector; the first that matches wins.

    Raises ValueError for a pattern that matches no parameter.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.adam(1e-3), gf.scale_by_path({"head/**": 0.1})))
    chain(adam(0.001), scale_by_path({'head/**': 0.1}))
    """
    if not isinstance(factors, Mapping) or not factors:
        raise TypeError(
            f"scale_by_path: argument 'factors' must be a dict of numbers; got {describe(factors)}"
        )
    return partition({**{key: scale(factor) for key, factor in factors.items()}, _REST: identity()})


_REST = paths("**", required=False)


@transformation
def selective_transform(
    optimizer: GradientTransformation, *, freeze_mask: MaskOrFn
) -> GradientTransformation:
    """Applies `optimizer` where `freeze_mask` is False; elsewhere updates are zero and have no state.

    Args:
      optimizer: the transformation of the parameters that are trained.
      freeze_mask: like the mask of `freeze`.

    >>> import gradflow as gf
    >>> print(gf.selective_transform(gf.adam(0.001), freeze_mask=gf.paths('body/**')))
    selective_transform(adam(0.001), freeze_mask=paths('body/**'))
    """
    check_mask("selective_transform", "freeze_mask", freeze_mask)
    labels = functools.partial(_frozen_labels, freeze_mask)
    return partition({"freeze": set_to_zero(), "train": optimizer}, labels)


def _frozen_labels(mask: MaskOrFn, params: Params) -> Any:
    return jax.tree.map(
        lambda frozen: frozen if is_absent(frozen) else "freeze" if frozen else "train",
        resolve_mask(mask, params), is_leaf=is_absent,
    )  # fmt: skip
