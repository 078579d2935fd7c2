"""The list of networks: sizes, costs and recorded accuracies."""

import json

import pytest

import models
from analysis import model_list
from cifar_jax import errors
from models import creation

RECORDS = {"first": 0.6, "second": 0.7, "wide": 0.9, "mnist": 0.99, "untested": None}


def test_flops_are_those_counted_by_hand(tmp_path, monkeypatch):
  for name, accuracy in RECORDS.items():
    (tmp_path / name).mkdir()
    data = "mnist" if name == "mnist" else "cifar10"
    results = {"model": "lenet2", "data": {"name": data}, "test_accuracy": accuracy}
    # The record 'wide' is of a network with other arguments than the default ones.
    results["parameters"] = {"trainable": 2_233_899 if name == "wide" else 2_233_898}
    (tmp_path / name / "results.json").write_text(json.dumps(results))
  monkeypatch.setattr(model_list, "RECORDS", tmp_path)
  (row,) = model_list.collect(["lenet2"])
  # Convolutions of 3, 3, 3 and 5 squared to 32 and 64 channels, then dense layers of 512 and 10.
  pixels = 32 * 32 * 32 * (9 * 3 + 9 * 32) + 16 * 16 * 64 * (9 * 32 + 25 * 64)
  assert row["flops"] == 2 * (pixels + 8 * 8 * 64 * 512 + 512 * 10)
  assert (row["parameters"], row["accuracy"], row["record"]) == (2_233_898, 0.7, "second")
  text = model_list.describe(["lenet2"])
  assert "lenet2   2,233,898           86.7 M" in text
  assert "70.00%  second" in text
  assert json.loads(model_list.describe(["lenet2"], as_json=True)) == [row]


def test_names_are_searched_by_pattern():
  assert creation.search("wrn*", "lenet2") == ["lenet2", "wrn16_8", "wrn28_10", "wrn40_4"]
  assert creation.search() == models.list_names()
  with pytest.raises(errors.UserError, match=r"unknown model 'lenet'; did you mean 'lenet"):
    creation.search("lenet")
