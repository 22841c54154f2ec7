"""Draws the pictures of the README and of the notebooks into .github/pictures.

`python .github/pictures.py` draws all, in some minutes; `python .github/pictures.py 03 11 trajectory` those
of two notebooks and one of the README, whose own are race, trajectory and comparison.
"""

import base64
import functools
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
from PIL import Image

from gradflow import lab

FOLDER = Path(__file__).parent / "pictures"
# Of the six bases the best and the usual one are drawn, and of the methods those that are asked to win.
UNDRAWN = {
    "adamw 1/8", "adamw 1/16", "nadamw", "nadamw 1/16",
    "adamuon", "dion2", "muown", "splus",
}  # fmt: skip
# Which of its figures stands for a notebook, counted from 0, where it is not the first.
OTHER_THAN_THE_FIRST = {"01": 9, "05": 1, "06": 1, "08": 2, "09": 3, "11": 1, "13": 1}


def save(figure: Callable[[], Any], name: str) -> None:
    """Saves what a function draws as a picture."""
    buffer = io.BytesIO()
    figure().savefig(buffer, format="png", dpi=90)
    save_png(buffer, name)


def save_png(file: Any, name: str) -> None:
    """Saves a PNG with at most 1000 columns and 128 colors, which is small."""
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((1000, 1000))
    picture.quantize(128, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


def draw_notebook(path: Path) -> None:
    """Runs a notebook and saves one of its figures under the notebook's name."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [data["image/png"] for data in outputs if "image/png" in data]
    save_png(io.BytesIO(base64.b64decode(figures[OTHER_THAN_THE_FIRST.get(path.name[:2], 0)])), path.stem)


def race() -> Any:
    """The stored test losses of `python -m benchmarks.race`, of each method at its best rate."""
    stored = json.loads((FOLDER.parents[1] / "benchmarks/results/race.json").read_text())["300"]
    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    means = {
        name: [np.mean(c, 0) for c in by_rate.values() if len(c) == max(map(len, by_rate.values()))]
        for name, by_rate in stored.items()
        if name not in UNDRAWN
    }
    best = {name: min(curves, key=lambda curve: curve[-1]) for name, curves in means.items()}
    for name, curve in sorted(best.items(), key=lambda item: item[1][-1]):
        steps = 300 / len(curve) * np.arange(1, len(curve) + 1)
        axis.plot(steps, curve, "--" if "adamw" in name else "-", label=f"{name}  {curve[-1]:.2f}")
    axis.set(xlabel="step", ylabel="test loss", ylim=(min(c[-1] for c in best.values()) - 0.05, 3))
    axis.legend(fontsize=8, ncols=2)
    return figure


def trajectory() -> Any:
    """Five optimizers on Beale's function."""
    return lab.trajectory(["sgd", "momentum", "rmsprop", "adam", "lbfgs"], "beale").plot()


def comparison() -> Any:
    """What `python -m gradflow compare` draws."""
    return lab.compare(progress=False).plot()


def main(chosen: list[str]) -> None:
    """Draws the pictures of these names, of which a notebook's is its number; all pictures without one."""
    drawings = {
        path.stem: functools.partial(draw_notebook, path)
        for path in sorted((FOLDER.parents[1] / "notebooks").glob("*.ipynb"))
    }
    for figure in (race, trajectory, comparison):
        drawings[figure.__name__] = functools.partial(save, figure, figure.__name__)
    unknown = [one for one in chosen if not any(name.startswith(one) for name in drawings)]
    if unknown:
        sys.exit(f"no picture is called {', '.join(unknown)}; there are {', '.join(drawings)}")
    FOLDER.mkdir(exist_ok=True)
    for name, draw in drawings.items():
        if not chosen or name.startswith(tuple(chosen)):
            start = time.monotonic()
            draw()
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
