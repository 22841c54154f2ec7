"""Composes the docstrings of optimizers, so that a text about an argument is written once.

A named optimizer is a chain of stages. Its arguments are theirs, so what a stage's docstring says of an
argument is taken over, and so are the stage's equation and its source.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Arguments that stages share, where no stage on the way describes them.
_SHARED = {
    "learning_rate": "a number >= 0 or a schedule.",
    "weight_decay": "strength of the decay towards zero, >= 0, or a schedule.",
    "b1": "decay of the first moment, in [0, 1).",
    "b2": "decay of the second moment, in [0, 1).",
    "mask": "where to decay: a selector, a pattern of paths, a tree of booleans, or a function from params.",
    "mu_dtype": "dtype of the first moment; the parameters' by default.",
    "eps": "added to the denominator, >= 0.",
    "eps_root": "added inside the root, >= 0.",
    "nesterov": "whether to look ahead with Nesterov's momentum.",
    "momentum": "decay of the momentum.",
    "axis_name": "the mesh axes to sum over, for a call inside `shard_map`.",
}  # fmt: skip
# Sentences such as "The others as in `scale_by_adam`."
_POINTER = re.compile(r"\s*(?:The others|The other arguments|Others|All others)\b[^.]*?`[^.]*\.(?=\s|$)")
_SOURCE = re.compile(r"\bSources?: ")
_ENTRY = re.compile(r"  (\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)")


class Parts(NamedTuple):
    """A docstring: the first paragraph, the equations, the arguments, and the paragraphs after them."""

    first: str
    more: tuple[str, ...]
    equations: tuple[str, ...]
    arguments: Mapping[str, str]
    rest: tuple[str, ...]
    source: str


@functools.cache
def parts_of(function: Callable[..., Any]) -> Parts:
    """The parts of a docstring in the form that all of gradflow's have."""
    blocks = re.split(r"\n\n+", inspect.cleandoc(function.__doc__ or ""))
    arguments: dict[str, str] = {}
    more: list[str] = []
    rest: list[str] = []
    equations: list[str] = []
    for block in blocks[1:]:
        if block.startswith(">>>"):
            continue  # a stage's example is not that of the optimizer
        if block.startswith("Args:"):
            arguments = _arguments(block)
        elif block.startswith("    ") and not arguments:
            equations.append(block)
        else:
            (rest if arguments else more).append(block)
    text = _POINTER.sub("", "\n\n".join(rest)).strip()
    kept, source = _split_source(text)
    others, earlier = _split_source(_POINTER.sub("", "\n\n".join(more)).strip())
    return Parts(blocks[0], others, tuple(equations), arguments, kept, source or earlier)


def _split_source(text: str) -> tuple[tuple[str, ...], str]:
    """The paragraphs before the source, and the source."""
    before, *source = _SOURCE.split(text, maxsplit=1)
    paragraphs = (paragraph.strip() for paragraph in re.split(r"\n\n+", before))
    return tuple(paragraph for paragraph in paragraphs if paragraph), "".join(source).strip()


def _arguments(block: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    for line in block.splitlines()[1:]:
        entry = _ENTRY.fullmatch(line)
        if entry is not None:
            names = [name.strip("* ") for name in entry[1].split(",")]
            found.update(dict.fromkeys(names, entry[2]))
        else:
            found.update({name: f"{found[name]}\n    {line.strip()}" for name in names})
    return found


def stages_called(function: Any) -> list[Any]:
    """The factories whose names a factory's body uses, those of rules before those of rates."""
    body = inspect.unwrap(function.__gradflow__.body)
    names = body.__code__.co_names
    found = [body.__globals__.get(name) for name in names]
    found = [other for other in found if getattr(other, "__gradflow__", None) is not None]
    return sorted(found, key=lambda other: other.__name__ in ("chain", "identity", "scale_by_learning_rate"))


def described(function: Any, name: str) -> str:
    """What a factory's docstring, or that of a stage that it calls, says of an argument; or no text."""
    own = parts_of(function).arguments.get(name)
    if own is not None and not own.startswith("as in `"):
        return own
    for other in stages_called(function):
        if name in other.__gradflow__.parameters and other is not function:
            text = described(other, name)
            if text:
                return text
    return _SHARED.get(name, "")


def _with_range(function: Any, name: str, text: str) -> str:
    """The text of an argument, with its range if it says none."""
    argument = function.__gradflow__.checked.get(name)
    says = argument is None or not argument.is_hyperparameter or re.search(r"[\[(>]=?\s?\d|number|None", text)
    return text if says else f"{text.rstrip('.')}, {argument.kind}."


def _step(function: Any) -> list[str]:
    """The last line of the rule, where the rate and the weight decay come after a stage's."""
    names = [stage.__name__ for stage in stages_called(function)]
    if "learning_rate" not in function.__gradflow__.parameters:
        return []
    rule = next((i for i, name in enumerate(names) if name.startswith("scale_by_")), len(names))
    decays = "add_decayed_weights" in names and names.index("add_decayed_weights") > rule
    return [f"    update = -learning_rate * {'(u + weight_decay * p)' if decays else 'u'}"]


def compose(function: Any, what: str, when: str, others: Mapping[str, str], example: str) -> str:
    """The whole docstring of an optimizer that stands by itself.

    Args:
      function: the factory, with its own docstring in the usual form.
      what: the first sentence.
      when: when it is the one to try.
      others: texts for arguments that no docstring describes.
      example: a call, which prints as itself.
    """
    own = parts_of(function)
    rules = [parts_of(stage) for stage in stages_called(function)]
    rule = next((part for part in rules if part.equations), None)
    equations = list(own.equations)
    if rule is not None and all("scale_by" in block for block in equations):
        # Without an equation of its own, an optimizer is a stage's rule and the learning rate.
        step = [] if equations else _step(function)
        equations.insert(0, "\n".join([rule.equations[0], *step]))
    texts = {name: others.get(name) or described(function, name) for name in function.__gradflow__.parameters}
    lines = [f"{name}: {_with_range(function, name, text)}" for name, text in texts.items()]
    source = own.source or next((part.source for part in rules if part.source), "")
    blocks = [what, *equations, *own.more, f"When to try it: {when}"]
    blocks += ["Args:\n" + "\n".join(f"  {line}" for line in lines)] if lines else []
    blocks += [*own.rest, *([f"Source: {source}"] if source else [])]
    return "\n\n".join([*blocks, printed(example)])


def printed(call: str) -> str:
    """The example of a docstring: a call that prints as itself."""
    return f">>> import gradflow as gf\n>>> print({call})\n{call.replace('gf.', '')}"
