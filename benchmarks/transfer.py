"""Whether the best learning rate of hidden matrices stays where it is when a transformer gets wider.

    python -m benchmarks.transfer                      widths 64 and 256, one start; minutes on two idle cores
    python -m benchmarks.transfer --only muon --widths 64,128

The transformer of the race at several widths; embedding, positions and scales learn by AdamW at one rate.
"spectral" is the length of a step in the spectral norm, sqrt(out / in), which says the same at every width.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax

import gradflow as gf
from benchmarks.race import losses
from gradflow import lab
from gradflow.lab._tasks._transformer import transformer_init

RATES = tuple(5e-4 * 2**k for k in range(9))
OTHERS = 4e-3


def _muon(rate: Any, base: Any, params: Any) -> Any:
    return gf.chain(gf.scale_by_muon(), gf.scale_by_shape(), gf.scale_by_learning_rate(rate))


def _muon_rms(rate: Any, base: Any, params: Any) -> Any:
    return gf.chain(
        gf.scale_by_muon(), gf.scale_by_shape(consistent_rms=0.2), gf.scale_by_learning_rate(rate)
    )


def _adamw(rate: Any, base: Any, params: Any) -> Any:
    return gf.adamw(rate)


def _adamw_with_factors(rate: Any, base: Any, params: Any) -> Any:
    return gf.chain(gf.adamw(rate), gf.scale_by_path(gf.mup_factors(params, base, "adam")))


METHODS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "muon, spectral": _muon,
    "muon, equal root mean square": _muon_rms,
    "adamw with muP factors": _adamw_with_factors,
    "adamw": _adamw,
}


def final_losses(name: str, width: int, smallest: int, rates: list[float], steps: int) -> list[float]:
    """The test loss at the end, for each rate."""
    init = transformer_init(width)
    base, params = (jax.eval_shape(transformer_init(w), jax.random.key(0)) for w in (smallest, width))
    task = dataclasses.replace(lab.task("transformer"), init=init)

    def make(rate: Any, rest: Any) -> Any:
        return gf.for_matrices(METHODS[name](rate, base, params), gf.adamw(OTHERS))

    run = losses(make, task, steps)
    return [float(run(rate, 0)[-1]) for rate in rates]


def main() -> None:
    """Prints the final losses, and the best rate at each width."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="methods whose names begin with this")
    parser.add_argument("--widths", type=lambda text: [int(x) for x in text.split(",")], default=[64, 256])
    parser.add_argument("--rates", type=lambda text: [float(x) for x in text.split(",")], default=list(RATES))
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    print("| method | width | best rate | " + " | ".join(f"{rate:.3g}" for rate in arguments.rates) + " |")
    print("|" + "---|" * (3 + len(arguments.rates)))
    for name in METHODS:
        if arguments.only and not name.startswith(arguments.only):
            continue
        for width in arguments.widths:
            began = time.perf_counter()
            found = final_losses(name, width, arguments.widths[0], arguments.rates, arguments.steps)
            best = arguments.rates[min(range(len(found)), key=found.__getitem__)]
            row = " | ".join(f"{loss:.3f}" for loss in found)
            seconds = time.perf_counter() - began
            print(f"| {name} | {width} | {best:.3g} | {row} |  ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
