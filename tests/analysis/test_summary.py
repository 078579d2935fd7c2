"""The table of a model's layers and parameters."""

import importlib
import math

import pytest
import small_runs

from analysis import summary


def test_summary_has_keras_columns_and_totals(tmp_path):
  config = small_runs.config(tmp_path, model__widths=(32, 64, 128))
  config.model.dense = (256, 128)
  text = summary.describe(config)
  title, header, rule, *lines, last_rule, total, trainable, non_trainable, outputs = (
    text.splitlines()
  )
  assert title == "Model: simple_cnn"
  assert header.split("  ")[0] == "layer (type)"
  assert rule == last_rule == "-" * len(header)
  assert [total, trainable, non_trainable] == [
    "Total params: 847,530 (3.23 MB)",  # as report 000 prints them
    "Trainable params: 846,634 (3.23 MB)",
    "Non-trainable params: 896 (3.50 KB)",
  ]
  # Two convolutions and batch norms a stage, dropout, two hidden layers and the head.
  count = 4 * (32 * 32 * 32 + 16 * 16 * 64 + 8 * 8 * 128) + 4 * 4 * 128 + 256 + 128 + 10
  assert outputs == f"Outputs of these layers for one image: {count:,} ({count / 2**8:.2f} KB)"
  counts = [[int(cell.replace(",", "")) for cell in line.split()[-2:]] for line in lines]
  assert [sum(column) for column in zip(*counts, strict=True)] == [846_634, 896]
  assert "stage1_conv1 (Conv)       (batch, 32, 32, 32)        896              0" in text
  assert text.index("stage3_norm2") < text.index("dense1") < text.index("head (Dense)")


def test_the_title_names_what_the_table_does_not_show():
  config = importlib.import_module("configs.reproductions.report002_model1_summary").get_config()
  assert summary.describe(config).startswith("Model: lenet2, linear_convs=(2, 3, 4)\n")


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
  assert total is None or lines[-4].startswith(f"Total params: {total:,} (")


def test_outputs_are_those_of_the_innermost_modules(tmp_path):
  config = small_runs.config(tmp_path)
  config.model = {"name": "wide_resnet", "depth": 10, "width": 1}
  config.data.name = "cifar10"
  *lines, outputs = summary.describe(config).splitlines()
  shapes = [
    [int(side) for side in line.split("(batch, ")[1].split(")")[0].split(", ")]
    for line in lines
    if "(batch, " in line and "Block" not in line
  ]
  assert len(shapes) < sum("(batch, " in line for line in lines)
  assert f": {sum(map(math.prod, shapes)):,} (" in outputs


@pytest.mark.parametrize(
  ("num_bytes", "text"),
  [(0, "0.00 B"), (1023, "1023.00 B"), (3584, "3.50 KB"), (4 * 10_489_674, "40.01 MB")],
)
def test_sizes_are_keras(num_bytes, text):
  assert summary.format_size(num_bytes) == text
  from keras.src.utils import summary_utils

  assert summary_utils.readable_memory_size(num_bytes) == text
