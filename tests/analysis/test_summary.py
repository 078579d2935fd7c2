"""The table of a model's layers and parameters."""

import importlib

import pytest
import small_runs

from analysis import summary


def test_summary_has_keras_columns_and_totals(tmp_path):
  config = small_runs.config(tmp_path, model__widths=(32, 64, 128))
  config.model.dense = (256, 128)
  text = summary.describe(config)
  header, rule, *lines, last_rule, total, trainable, non_trainable = text.splitlines()
  assert header.split("  ")[0] == "layer (type)"
  assert rule == last_rule == "-" * len(header)
  assert [total, trainable, non_trainable] == [
    "Total params: 847,530",
    "Trainable params: 846,634",
    "Non-trainable params: 896",
  ]
  counts = [[int(cell.replace(",", "")) for cell in line.split()[-2:]] for line in lines]
  assert [sum(column) for column in zip(*counts, strict=True)] == [846_634, 896]
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
  config.data.dir = str(tmp_path)  # an empty folder
  lines = summary.describe(config).splitlines()
  assert output in next(line for line in lines if line.startswith("head (Dense)"))
  assert total is None or lines[-3] == f"Total params: {total:,}"
