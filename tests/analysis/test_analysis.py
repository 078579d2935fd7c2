"""What is shown of models and runs."""

import importlib

import numpy as np
import pytest
import small_runs
from PIL import Image

from analysis import summary
from cifar_jax.runs import plots


def test_summary_is_keras_columns(tmp_path_factory):
  config = small_runs.config(tmp_path_factory.getbasetemp() / "digits", model__widths=(32, 64, 128))
  config.model.dense = (256, 128)
  text = summary.describe(config)
  assert text.splitlines()[-3:] == [
    "Total params: 847,530",
    "Trainable params: 846,634",
    "Non-trainable params: 896",
  ]
  rows = [line.split() for line in text.splitlines() if line.split()[0][-1].isdigit()]
  assert sum(int(row[-2].replace(",", "")) for row in rows if row) <= 846_634
  assert "stage1_conv1 (Conv)       (batch, 32, 32, 32)        896              0" in text
  assert text.index("stage3_norm2") < text.index("dense1") < text.index("head (Dense)")


@pytest.mark.parametrize(
  ("name", "output", "total"),
  [
    ("report003_cifar100", "(batch, 100)", 11_189_194 + 90 * 513),
    ("report001_cats_vs_dogs", "(batch, 1)", None),
  ],
)
def test_summary_needs_no_data(tmp_path, name, output, total):
  config = importlib.import_module(f"configs.reproductions.{name}").get_config()
  config.data.dir = str(tmp_path)  # where there are none
  lines = summary.describe(config).splitlines()
  assert output in next(line for line in lines if line.startswith("head (Dense)"))
  assert total is None or lines[-3] == f"Total params: {total:,}"


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
  plots.learning_curves(rows, "a net on a set", tmp_path / "curves.png")
  with Image.open(tmp_path / "curves.png") as image:
    assert image.width > 2 * image.height
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
  orange = np.all(pixels == (255, 127, 14), axis=1).any()  # the colour of validation
  assert orange == validated
  assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_curves_are_redrawn_now_and_then_and_at_the_end(tmp_path):
  path = tmp_path / "curves.png"
  rows = [{"epoch": 1, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 0.1}]
  curves = plots.LearningCurves(path)
  curves.draw(rows, "a")
  first = path.read_bytes()
  curves.draw(rows, "another title")
  assert path.read_bytes() == first
  curves.draw(rows, "another title", at_once=True)
  assert path.read_bytes() != first
