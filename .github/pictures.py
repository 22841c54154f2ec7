"""Draws the README's pictures into .github/pictures: `python .github/pictures.py`."""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from gradflow import lab

FOLDER = Path(__file__).parent / "pictures"


def save(figure: Any, name: str) -> None:
    """Saves a figure as a PNG of 64 colors, which is small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        FOLDER / f"{name}.png", optimize=True
    )


def race() -> Any:
    """The stored test losses of `python -m benchmarks.race`, of each method at its best rate."""
    stored = json.loads((FOLDER.parents[1] / "benchmarks/results/race.json").read_text())
    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    means = {name: np.asarray(curves).mean(1) for name, curves in stored["curves"].items()}
    best = {name: curves[np.nanargmin(curves[:, -1])] for name, curves in means.items()}
    for name, curve in sorted(best.items(), key=lambda item: item[1][-1]):
        steps = stored["steps"] / len(curve) * np.arange(1, len(curve) + 1)
        axis.plot(steps, curve, "--" if "adamw" in name else "-", label=f"{name}  {curve[-1]:.2f}")
    axis.set(xlabel="step", ylabel="test loss", ylim=(min(c[-1] for c in best.values()) - 0.05, 3))
    axis.legend(fontsize=8, ncols=2)
    return figure


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    save(race(), "race")
    save(lab.trajectory(["sgd", "momentum", "rmsprop", "adam", "lbfgs"], "beale").plot(), "trajectory")
    save(lab.compare().plot(), "comparison")
