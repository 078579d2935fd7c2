"""The pure functions of benchmarks/: counting, comparing, reading; nothing is timed here."""

import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from benchmarks import records, timing
from benchmarks.peers import common
from benchmarks.speed import flops, gpu, input_cost, to_accuracy
from cifar_jax.data import datasets


@pytest.mark.parametrize("name", common.MODELS)
def test_peers_declare_the_parameters_of_our_networks(name):
  model = models.create({"name": name}, common.CLASSES)
  images = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  assert models.count_parameters(variables) == common.PARAMETERS[name]


# Multiply-adds per image: 0.56 G for kuangliu/pytorch-cifar's ResNet-18, and 5.2 G for WRN-28-10
# (arXiv:1605.07146 and later tables).
@pytest.mark.parametrize(("name", "giga"), [("resnet18", 0.56), ("wrn28_10", 5.2)])
def test_operations_of_known_networks(name, giga):
  layers = flops.of_model(models.create({"name": name}, 10), (1, 32, 32, 3))
  assert sum(layer.flops for layer in layers) / 2e9 == pytest.approx(giga, rel=0.01)


def test_operations_grow_with_the_batch_and_training_costs_three_passes_except_in_layer_one():
  model = models.create({"name": "simple_cnn"}, 10)
  one, four = (flops.of_model(model, (n, 32, 32, 3)) for n in (1, 4))
  assert sum(layer.flops for layer in four) == 4 * sum(layer.flops for layer in one)
  first = 2 * 32 * 32 * 32 * 3 * 3 * 3
  assert one[0].flops == first
  assert flops.of_training(one) == 3 * sum(layer.flops for layer in one) - first


@pytest.mark.parametrize("groups", [1, 2])
def test_operations_of_a_convolution_without_borders_are_xlas(groups):
  x, w = jnp.zeros((2, 9, 9, 4)), jnp.zeros((3, 3, 4 // groups, 6))

  def convolve(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )

  (convolution,) = flops.walk(jax.make_jaxpr(jax.jit(convolve))(x, w).jaxpr)
  assert convolution.output == (2, 4, 4, 6)
  assert convolution.flops == jax.jit(convolve).lower(x, w).compile().cost_analysis()["flops"]


def test_ratios_are_taken_round_by_round():
  slow, fast = timing.Timing([2.0, 6.0, 20.0]), timing.Timing([1.0, 2.0, 10.0])
  assert timing.ratio(slow, fast) == {"median": 2.0, "lowest": 2.0, "highest": 3.0}
  assert timing.ratio(slow, timing.Timing([], "skipped: missing")) is None


def test_cost_of_input_is_the_median_over_rounds():
  cost = input_cost.cost([1.1, 2.4, 3.0], [1.0, 2.0, 4.0])
  assert cost["cost %"] == pytest.approx(10)
  assert (cost["lowest %"], cost["highest %"]) == pytest.approx((-25, 20))


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (0.123456, "0.123"),
    (12345.6, "12,346"),
    (128, "128"),
    (None, ""),
    ({"median": 1.234, "lowest": 1.0, "highest": 2.0}, "1.23 (1.00–2.00)"),
  ],
)
def test_values_in_tables(value, text):
  assert records.cell_text(value) == text


@pytest.mark.parametrize(
  ("output", "kind", "reason"),
  [
    ("Traceback\n  File x\nModuleNotFoundError: No module named 'torch'\n", "skipped", "'torch'"),
    ("RuntimeError: out of memory\na library's last line\n", "failed", "out of memory"),
    ("", "failed", "ended with code 3"),
  ],
)
def test_the_reason_why_a_side_ended_is_one_line(output, kind, reason):
  text = str(timing.failure(output, 3))
  assert text.startswith(kind) and reason in text and "\n" not in text


def test_final_rows_of_an_airbench_script():
  names = ["run   ", "epoch", "train_loss", "train_acc", "val_acc", "tta_val_acc"]
  names.append("total_time_seconds")
  rows = [
    ["0", "0", "1.9", "0.5", "0.5", "", "0.4"],
    ["", "eval", "1.1", "0.97", "0.9341", "0.9402", "3.83"],
    ["1", "eval", "1.1", "0.97", "0.9341", "0.9390", "3.80"],
  ]
  lines = ["-" * 40, *("".join(f"|  {cell}  " for cell in row) + "|\n" for row in (names, *rows))]
  assert to_accuracy.final_rows(lines) == [
    {"accuracy": pytest.approx(94.02), "train": 3.83},
    {"accuracy": pytest.approx(93.90), "train": 3.80},
  ]
  assert to_accuracy.final_rows(["nothing\n"]) == []


@pytest.mark.parametrize(
  ("arguments", "names"),
  [([], ["a", "b", "c"]), (["--sides="], []), (["--sides=c,a"], ["c", "a"])],
)
def test_names_are_separated_by_commas(arguments, names):
  parser = records.bare_parser("", "sides")
  records.add_names_option(parser, "--sides", ("a", "b", "c"))
  assert parser.parse_args(arguments).sides == names


def test_an_unknown_name_is_refused_with_the_known_ones(capsys):
  parser = records.bare_parser("", "sides")
  records.add_names_option(parser, "--sides", ("a", "b"))
  with pytest.raises(SystemExit):
    parser.parse_args(["--sides=a,d"])
  assert "argument --sides: there is no 'd'; use a, b" in capsys.readouterr().err


def test_random_images_load_as_cifar10(tmp_path):
  records.write_random_cifar10(str(tmp_path), train=30, test=20)
  dataset = datasets.load("cifar10", str(tmp_path))
  assert dataset.train.images.shape == (30, 32, 32, 3) and dataset.test.images.shape[0] == 20
  assert len(dataset.class_names) == 10 and set(np.unique(dataset.train.labels)) <= set(range(10))


def test_a_record_holds_the_rows_so_far_and_the_environment(tmp_path, capsys):
  options = records.parser("", "x").parse_args([f"--output={tmp_path / 'new' / 'x.json'}"])
  record = records.Record("x", options, ["model", "step ms"])
  record.add({"model": "resnet18", "step ms": 12.345, "note": "[alone]"}, step_seconds=[0.012])
  written = json.loads(options.output.read_text())
  assert written["rows"] == [
    {"model": "resnet18", "step ms": 12.345, "note": "[alone]", "step_seconds": [0.012]}
  ]
  assert {"date", "git_commit", "cores", "processor"} <= written["environment"].keys()
  printed = capsys.readouterr().out.splitlines()
  assert printed == ["model               step ms", "resnet18               12.3  [alone]"]


def test_flops_lists_every_layer_of_a_network():
  layers = flops.of_model(models.create({"name": "simple_cnn"}, 10), (8, 32, 32, 3))
  kinds = [type(layer).__name__ for layer in layers]
  assert kinds == ["Convolution"] * 6 + ["Product"] * 3
  assert [math.prod(layer.output) for layer in layers[-3:]] == [8 * 256, 8 * 128, 8 * 10]


@pytest.mark.parametrize("part", gpu.PARTS, ids=lambda part: part.name)
def test_parts_of_gpu_are_benchmarks(part):
  assert importlib.util.find_spec(f"benchmarks.speed.{part.benchmark}") is not None
