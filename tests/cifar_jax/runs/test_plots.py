"""Learning curves as PNGs."""

import numpy as np
import pytest
from PIL import Image

from cifar_jax.runs import plots


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("seeds", [1, 3])
def test_learning_curves_are_drawn(tmp_path, validated, seeds):
  names = ["train_loss", "train_accuracy"] + ["val_loss", "val_accuracy"] * validated
  rows = []
  for epoch in range(1, 4):
    values = {name: 0.5 / epoch for name in names}
    row = {"epoch": epoch, "learning_rate": 0.1} | values
    if seeds > 1:
      row["seeds"] = [{"seed": s} | {n: v + 0.01 * s for n, v in values.items()} for s in range(3)]
    rows.append(row)
  plots.draw_learning_curves(rows, "a net on a set", tmp_path / "curves.png")
  with Image.open(tmp_path / "curves.png") as image:
    assert image.width > 2 * image.height
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
  orange = np.all(pixels == (255, 127, 14), axis=1).any()  # the colour of validation
  assert orange == validated
  assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_curves_are_redrawn_after_a_pause_and_at_the_end(tmp_path):
  path = tmp_path / "curves.png"
  rows = [{"epoch": 1, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 0.1}]
  curves = plots.LearningCurves(path)
  curves.draw(rows, "a")
  first = path.read_bytes()
  curves.draw(rows, "another title")
  assert path.read_bytes() == first
  curves.draw(rows, "another title", at_once=True)
  assert path.read_bytes() != first
