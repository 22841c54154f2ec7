"""Default learning rates and arguments of named optimizers in comparisons."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gradflow import optimizers as room


class Recipe(NamedTuple):
    """A factory with some arguments, and the rate in the middle of its default grid."""

    factory: str
    arguments: Mapping[str, Any]
    middle: float


# The methods of most textbooks.
DEFAULTS = (
    "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "nadam", "adamax",
    "amsgrad", "lion",
)  # fmt: skip

# The middle of each grid, chosen by trial runs on digits so that most best rates fall inside. Plain gradients
# need larger rates than gradients divided by their root mean square, and signs need smaller ones. Optimizers
# that are not listed use Adam's. The table marks a best rate at the end of its grid, as on other problems.
RECIPES = {
    "sgd": Recipe("sgd", {}, 0.3),
    "momentum": Recipe("sgd", {"momentum": 0.9}, 0.1),
    "nesterov": Recipe("sgd", {"momentum": 0.9, "nesterov": True}, 0.1),
    "noisy_sgd": Recipe("noisy_sgd", {"key": 0}, 0.3),
    "optimistic_gradient_descent": Recipe("optimistic_gradient_descent", {}, 0.3),
    "adagrad": Recipe("adagrad", {}, 0.3),
    "sm3": Recipe("sm3", {}, 0.3),
    "adadelta": Recipe("adadelta", {}, 10.0),
    "adamax": Recipe("adamax", {}, 3e-2),
    "adamaxw": Recipe("adamaxw", {}, 3e-2),
    "lars": Recipe("lars", {}, 1.0),
    "lion": Recipe("lion", {}, 3e-3),
    # A step of two calls; the noise of a data set of this size is small beside the weights.
    "bsam": Recipe("bsam", {"num_examples": 10_000}, 0.3),
    "sign_sgd": Recipe("sign_sgd", {}, 3e-3),
    "signum": Recipe("signum", {}, 3e-3),
    "muon": Recipe("muon", {}, 1e-2),
    "rprop": Recipe("rprop", {}, 1e-2),
    "madgrad": Recipe("madgrad", {}, 1e-2),
    # These estimate their step size; the rate is a factor on it.
    "cocob": Recipe("cocob", {}, 1.0),
    "dadapt_adamw": Recipe("dadapt_adamw", {}, 1.0),
    "dog": Recipe("dog", {}, 1.0),
    "dowg": Recipe("dowg", {}, 1.0),
    "momo": Recipe("momo", {}, 1.0),
    "prodigy": Recipe("prodigy", {}, 1.0),
    "schedule_free_sgd": Recipe("schedule_free_sgd", {}, 1.0),
}
# These choose their rate by a line search or by the loss, so they run unchanged.
WITHOUT_RATE = ("lbfgs", "polyak_sgd")
# These need more than a loss and a rate: per-example gradients, or other arguments.
_NOT_HERE = ("dpsgd",)
RATES_BELOW, RATES_ABOVE = 3, 2  # rates of a default grid below and above the middle


def default_grid(middle: float) -> tuple[float, ...]:
    """Returns half decades around the middle: 1, 3, 10, 30, ..."""
    half = round(2 * math.log10(middle))
    halves = range(half - RATES_BELOW, half + RATES_ABOVE + 1)
    return tuple(float(f"{3 if k % 2 else 1}e{k // 2}") for k in halves)


def optimizer_names() -> list[str]:
    """Every name that `compare` accepts: the recipes', and all optimizers that take a learning rate."""
    names = {name for name, recipe in RECIPES.items() if hasattr(room, recipe.factory)}
    for name, value in vars(room).items():
        factory = getattr(value, "__gradflow__", None)
        if factory is not None and "learning_rate" in factory.hyperparameters and "_by_" not in name:
            names.add(name)
    return sorted({*names, *WITHOUT_RATE}.difference(_NOT_HERE))
