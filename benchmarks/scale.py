"""How much each device holds and sends in a step, by arithmetic: the table of .github/SCALE.md.

    python -m benchmarks.scale

The formulas are those of `per_device`. Tests compare them with compiled programs of small models.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import gradflow as gf

# Parameters, and along how many devices a "model" axis cuts them.
MODELS = {"7 B": (7e9, 1), "70 B": (70e9, 8), "1 T": (1e12, 64)}
DEVICES = (8, 64, 512, 4096)
WORKERS_MEET_EVERY = 500


class PerDevice(NamedTuple):
    """Bytes on one device: what it holds, and what it sends or receives in a step.

    - `state`: the state whole along "data"; `zero_state`: under `shard_state`.
    - `gradients`: reduce-scattered along "data"; `updates`: gathered back.
    - `matrices`: the two exchanges of `spread`, for a rule that takes and returns one array.
    - `meeting`: one synchronization of `outer(..., axis_name=)`.
    """

    state: float
    zero_state: float
    gradients: float
    updates: float
    matrices: float
    meeting: float


def per_device(parameters: float, state_bytes: float, data: int, model: int, width: int = 4) -> PerDevice:
    """The bytes for parameters of `width` bytes, cut along `model` devices, with `data` copies.

    A collective counts as `communication` counts it: its operands or its results, whichever are more.
    """
    own = parameters / model
    whole = own * width
    sent = whole if data > 1 else 0.0  # a single copy has no other to agree with
    return PerDevice(
        state=own * state_bytes, zero_state=own * state_bytes / data, gradients=sent, updates=sent,
        matrices=2 * whole / data, meeting=sent,
    )  # fmt: skip


class Exchanged(NamedTuple):
    """What `spread` exchanges for each matrix, in matrices: `matrices`, and `factors` times what they take.

    Each device sends its share of it, `1 / data` of the bytes. `refreshed` and `refreshed_factors` are in
    the branch of the steps that refresh factors.
    """

    matrices: float
    factors: float = 0
    refreshed: float = 0
    refreshed_factors: float = 0

    def shares(self, rows: int, columns: int) -> tuple[float, float]:
        """Of a matrix with a factor of each side: in each step, and besides in one that refreshes."""
        factors = rows / columns + columns / rows
        return (
            self.matrices + self.factors * factors,
            self.refreshed + self.refreshed_factors * factors,
        )


# Gradients, moments and factors in, updates and what they replace out; two exchanges for each rule.
EXCHANGED = {
    "muon": Exchanged(2),
    "kron": Exchanged(6, 1, 1, 2),
    "shampoo": Exchanged(4, 3, 0, 3),
    "soap": Exchanged(6, 3, 2, 3),
}


def state_bytes(tx: gf.GradientTransformation) -> float:
    """Bytes of state for each parameter of a large matrix."""
    found = gf.summary(tx, {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)})
    return found.state_bytes / found.parameters


def table() -> list[str]:
    """The rows of the page, in GB of 10^9 bytes."""
    adamw, coded = state_bytes(gf.adamw(1e-3)), state_bytes(gf.quantize_state(gf.adamw(1e-3)))
    muon = state_bytes(gf.scale_by_muon())
    rows = [
        "| parameters | devices (data x model) | AdamW: state, under ZeRO | 8-bit, under ZeRO "
        "| Muon, under ZeRO | gradients + updates | matrices besides | DiLoCo, each step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (parameters, model) in MODELS.items():
        for devices in DEVICES:
            if devices % model or devices < model:
                continue
            data = devices // model
            one = per_device(parameters, adamw, data, model)
            eight, orthogonal = (per_device(parameters, b, data, model) for b in (coded, muon))
            cells = [
                one.state, one.zero_state, eight.zero_state, orthogonal.zero_state,
                one.gradients + one.updates, one.matrices, one.meeting / WORKERS_MEET_EVERY,
            ]  # fmt: skip
            shown = [f"{cell / 1e9:.3g}" for cell in cells]
            rows.append(
                f"| {name} | {devices} ({data} x {model}) | {shown[0]}, {shown[1]} | "
                + " | ".join(shown[2:])
                + " |"
            )
    return rows


if __name__ == "__main__":
    print("\n".join(table()))
