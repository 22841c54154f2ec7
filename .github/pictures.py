"""Draws the README's pictures into .github/pictures: `python .github/pictures.py`."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from gradflow import lab

FOLDER = Path(__file__).parent / "pictures"


def save(result: Any, name: str) -> None:
    """Saves the plot of a result as a PNG of 64 colors, which is small."""
    buffer = io.BytesIO()
    result.plot().savefig(buffer, format="png", dpi=90)
    Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
        FOLDER / f"{name}.png", optimize=True
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    save(lab.trajectory(["sgd", "momentum", "rmsprop", "adam", "lbfgs"], "beale"), "trajectory")
    save(lab.compare(), "comparison")
