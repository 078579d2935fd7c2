"""Learning curves as PNGs."""

import numpy as np
import pytest
from PIL import Image

from cifar_jax.runs import plots


def make_rows(num_epochs, **offsets):
  """Return rows of metrics.jsonl; `offsets` are added to 1 / epoch, by metric."""
  return [
    {"epoch": epoch, "learning_rate": 0.1}
    | {f"train_{name}": 1 / epoch + offset for name, offset in offsets.items()}
    | {f"val_{name}": 1 / epoch + offset + 0.5 for name, offset in offsets.items()}
    for epoch in range(1, num_epochs + 1)
  ]


def panels(figure):
  """Return for each title of a panel the y values of its lines."""
  return {
    axis.get_title(): [[float(y) for y in line.get_ydata()] for line in axis.lines]
    for axis in figure.axes
    if axis.get_visible()
  }


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


def test_curves_are_drawn_after_a_pause_and_at_the_end(tmp_path, monkeypatch):
  now, path = 100.0, tmp_path / "curves.png"
  monkeypatch.setattr(plots.time, "monotonic", lambda: now)
  rows = [{"epoch": 1, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 0.1}]
  curves = plots.LearningCurves(path)
  curves.draw(rows, "a")
  assert not path.exists()
  now += plots._REDRAW_SECONDS
  curves.draw(rows, "a")
  first = path.read_bytes()
  curves.draw(rows, "another title")
  assert path.read_bytes() == first
  curves.draw(rows, "another title", at_once=True)
  assert path.read_bytes() != first


def test_the_loss_with_its_penalty_has_a_panel(drawn, tmp_path):
  rows = make_rows(2, loss=0.0, accuracy=0.0, objective=0.25)
  plots.draw_learning_curves(rows, "a", tmp_path / "curves.png")
  plots.draw_learning_curves(make_rows(2, loss=0.0, accuracy=0.0), "a", tmp_path / "curves.png")
  with_penalty, without = map(panels, drawn)
  assert with_penalty["Objective (loss + L2 penalty)"] == [[1.25, 0.75], [1.75, 1.25]]
  assert with_penalty["Loss"] == without["Loss"] == [[1.0, 0.5], [1.5, 1.0]]
  assert list(without) == ["Loss", "Accuracy", "Learning rate"]


def test_top5_has_a_panel_unless_it_is_always_one(drawn, tmp_path):
  rows = make_rows(2, loss=0.0, accuracy=0.0)
  plots.draw_learning_curves(
    [row | {"train_top5": 0.5, "val_top5": 1.0} for row in rows], "a", tmp_path / "curves.png"
  )
  plots.draw_learning_curves(
    [row | {"train_top5": 1.0, "val_top5": 1.0} for row in rows], "a", tmp_path / "curves.png"
  )
  ten_classes, two_classes = map(panels, drawn)
  assert ten_classes["Top-5 accuracy"] == [[0.5, 0.5], [1.0, 1.0]]
  assert "Top-5 accuracy" not in two_classes


def test_each_file_has_a_curve_and_the_current_file_its_range(drawn, tmp_path):
  rows = make_rows(4, loss=0.0, accuracy=0.0)
  for row, file in zip(rows, (2, 2, 3, 3), strict=True):
    row["file"] = file
  rows[3]["val_loss"] = None  # JSON's value for NaN
  plots.draw_learning_curves(rows, "a", tmp_path / "curves.png")
  loss = drawn[0].axes[0]
  train = [line for line in loss.lines if line.get_color() == "tab:blue"]
  assert [list(line.get_xdata()) for line in train] == [[1, 2], [3, 4]]
  (boundary,) = [line for line in loss.lines if line.get_linestyle() == ":"]
  assert list(boundary.get_xdata()) == [2.5, 2.5]
  first, second, ranges = [text.get_text() for text in loss.texts]
  assert (first, second) == ("file 2", "file 3")
  assert [line.split() for line in ranges.splitlines()] == [
    ["file", "3:"],
    ["train", "min", "0.2500", "max", "0.3333", "current", "0.2500"],
    ["validation", "min", "0.8333", "max", "0.8333", "current", "0.8333"],
  ]
