"""`--mode=compare` on written run folders, and image by image on two small trained runs."""

import json
import pathlib
import shutil

import jax
import ml_collections
import numpy as np
import one_step_runs
import pytest

import models
import modes
from analysis.evaluate import predictions
from analysis.report import page
from analysis.run import load_run
from cifar_jax import errors
from cifar_jax.config import flatten
from cifar_jax.runs import test_uses
from configs import default
from trust import compare
from trust.statistics import ImageDifference


def write_run(path: pathlib.Path, accuracies: dict[int, float], **fields: object) -> str:
  """Write the JSON files of a finished run with these validation accuracies by seed."""
  config = default.get_config()
  first, count = min(accuracies), len(accuracies)
  values = {"seed": first, "num_seeds": count, "num_epochs": 1, "dtype": "float32"} | fields
  for name, value in values.items():
    *parents, leaf = name.split("__")
    section = config
    for parent in parents:
      section = section[parent]
    section[leaf] = value
  data = {"name": "cifar10", "requested": "cifar10", "fingerprint": "f" * 64}
  rows = [
    {"seed": seed, "best_epoch": 1, "val_accuracy": value, "test_accuracy": value - 0.01}
    for seed, value in accuracies.items()
  ]
  results = {"selected_on": "validation", "seeds": list(accuracies), "data": data}
  results |= {"git_commit": "a" * 40, "val_accuracy": 0.5, "test_accuracy": 0.5}
  results |= {"per_seed": rows} if count > 1 else rows[0]
  path.mkdir(parents=True)
  for name, content in (("config", config.to_dict()), ("dataset", data), ("results", results)):
    (path / f"{name}.json").write_text(json.dumps(content))
  (path / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 1}) + "\n")
  return str(path)


def edit(path: str, name: str, **changes: object) -> None:
  file = pathlib.Path(path) / name
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


BASE = {0: 0.700, 1: 0.704, 2: 0.702, 3: 0.698}
BETTER = {seed: value + 0.01 + 0.001 * (seed % 2) for seed, value in BASE.items()}


def sentences(output):
  return [comparison.sentence for comparison in output["comparisons"]]


@pytest.fixture(autouse=True)
def draw(monkeypatch):
  """Leave out the charts of pages, which take a second each; the value is what draws them."""
  original = page.chart
  monkeypatch.setattr(page, "chart", lambda *_, **__: page.tag("p"))
  return original


# --- Sides ---------------------------------------------------------------------------------------


def test_runs_are_grouped_by_config_and_paired_by_seed(tmp_path, draw, monkeypatch):
  monkeypatch.setattr(page, "chart", draw)
  plain = [write_run(tmp_path / f"plain{s}", {s: value}) for s, value in BASE.items()]
  flip = write_run(tmp_path / "flip", BETTER, augment="random_flip()")
  output = compare.compare([*plain, flip], output=tmp_path / "compare.html")
  a, b = output["sides"]
  assert a.accuracies == pytest.approx(BASE) and b.accuracies == pytest.approx(BETTER)
  assert sentences(output) == [
    "B is better than A by 1.05 ± 0.09 points (p < 0.0001, 4 pairs of seeds)"
  ]
  lines = output["text"].splitlines()
  assert lines[0].split() == ["runs", "seeds", "augment", "validation", "accuracy"]
  assert lines[1].split()[:3] == ["A", "plain0,", "plain1,"] and "70.10% ± 0.13%" in lines[1]
  assert "'random_flip()'" in lines[2]
  assert lines[-1] == f"wrote {tmp_path / 'compare.html'}"
  text = (tmp_path / "compare.html").read_text()
  assert "B is better than A by 1.05" in text and "by --mode=compare from" in text
  assert text.count("data:image/png;base64,") == 4  # two charts, light and dark
  assert not any((tmp_path / "flip").glob(test_uses.FILE))  # validation is free


def test_sides_of_one_config_are_named_with_commas(tmp_path):
  old = [write_run(tmp_path / f"old{s}", {s: value}) for s, value in BASE.items()]
  new = [write_run(tmp_path / f"new{s}", {s: value}) for s, value in BETTER.items()]
  for path in new:
    edit(path, "results.json", git_commit="b" * 40)
  output = compare.compare([",".join(old), ",".join(new)], output=tmp_path / "compare.html")
  assert sentences(output)[0].startswith("B is better than A by 1.05 ± 0.09")
  assert "different commits of the code" in output["text"]
  two = [write_run(tmp_path / "x", BASE, seed=0), write_run(tmp_path / "y", BASE)]
  (same,) = sentences(compare.compare(two, output=tmp_path / "compare.html"))
  assert same.endswith("are not distinguishable: each of the 4 seeds has the same figure in both")


def test_other_seeds_of_one_config_are_compared_by_their_means(tmp_path):
  a = write_run(tmp_path / "a", BASE)
  b = write_run(tmp_path / "b", {seed + 10: value for seed, value in BETTER.items()})
  output = compare.compare([a, b], output=tmp_path / "compare.html")
  assert "4 and 4 seeds" in sentences(output)[0]
  assert "no two seeds in common" in output["text"]


def test_three_configs_are_corrected_and_the_cautions_given(tmp_path):
  runs = [
    write_run(tmp_path / "a", BASE),
    write_run(tmp_path / "b", BETTER, batch_size=64, model__widths=(1,), optimizer__name="adam"),
    write_run(tmp_path / "c", BASE, data__split_seed=1, loss__label_smoothing=0.1),
    write_run(tmp_path / "a2", {0: 0.1}),
  ]
  edit(runs[1], "results.json", diverged_seeds=[3])
  for path in (runs[0], runs[3]):
    edit(path, "results.json", lineage=[{"run": "/x/parent", "step": 3}])
  output = compare.compare(runs, output=tmp_path / "compare.html")
  assert [(c.a.name, c.b.name) for c in output["comparisons"]] == [
    ("A", "B"),
    ("A", "C"),
    ("B", "C"),
  ]
  for text in (
    "fields that differ: ",
    *("batch_size", "model.widths", "data.split_seed", "loss.label_smoothing", "optimizer.name"),
    "corrected for 3 comparisons (Holm)",
    "b: seeds that diverged are left out",
    "A: of runs with the same seed only the first counts",
    "the sides validate on different images",
    "A: runs that began with the same run are not independent",
  ):
    assert text in output["text"], text
  assert output["sides"][1].accuracies.keys() == {0, 1, 2}


def test_test_images_count_as_used_in_every_run(tmp_path):
  a, b = write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", BETTER, batch_size=64)
  output = compare.compare([a, b], split="test", output=tmp_path / "compare.html")
  assert "69.10% ± 0.13%" in output["text"] and "uses of test images" in output["text"]
  for path, other in ((a, "b"), (b, "a")):
    assert test_uses.count(path) == 2  # at its end, and now
    assert test_uses.uses(path)[-1]["purpose"] == f"compared with {other}"
  assert "this used the test images" in output["text"]
  on_test = write_run(tmp_path / "c", BASE, data__validation="test")
  compare.compare([a, on_test], output=tmp_path / "compare.html")
  assert (test_uses.count(a), test_uses.count(on_test)) == (2, 2)


# --- Wrong input ---------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused(tmp_path):
  a = write_run(tmp_path / "a", BASE)
  b = write_run(tmp_path / "b", BETTER, batch_size=64)
  one, other = (
    write_run(tmp_path / "one", {0: 0.5}),
    write_run(tmp_path / "other", {0: 0.5}, data__split_seed=9),
  )
  unfinished = write_run(tmp_path / "unfinished", BASE)
  (tmp_path / "unfinished" / "results.json").unlink()
  no_validation = write_run(tmp_path / "no_validation", {0: 0.5}, data__validation=0)
  edit(no_validation, "results.json", val_accuracy=None)
  for arguments, message in (
    ([a], "compare: only one side"),
    ([a, unfinished], "unfinished: unfinished, 1 of 1 epochs; finish the run"),
    ([a, f"{a},{b}"], "compare: a, b are not runs of one config, because they differ in batch_s"),
    ([a, no_validation], "--split: no_validation recorded no validation accuracy"),
    ([a, str(tmp_path / "nothing")], "nothing: not a run folder"),
    ([one, other], "compare: one and other have one seed and different validation images"),
  ):
    with pytest.raises(errors.UserError, match=message):
      compare.compare(arguments, output=tmp_path / "compare.html")
  assert not (tmp_path / "compare.html").exists()
  with pytest.raises(errors.UserError, match="no runs; name run folders"):
    modes.MODES["compare"].run(modes.Call(None, [], [], {"split": "test"}))


# --- Image by image ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single_runs(one_step_data, tmp_path_factory):
  """Two configs, trained with one seed each."""
  root = tmp_path_factory.mktemp("single")
  paths = {rate: root / f"rate{rate}" for rate in (0.05, 0.01)}
  for rate, path in paths.items():
    one_step_runs.run(one_step_data, path, 1, optimizer__learning_rate=rate)
  return list(map(str, paths.values()))


def test_a_test_that_is_repeated_after_a_crash_counts_again(one_step_data, single_runs, tmp_path):
  path = tmp_path / "run"
  shutil.copytree(single_runs[0], path)
  before = json.loads((path / "results.json").read_text())
  (path / "results.json").unlink()  # as if the process had been killed before it was written
  after = one_step_runs.run(one_step_data, path, 1, optimizer__learning_rate=0.05)
  assert (before["test_uses"], after["test_uses"]) == (1, 2)
  assert after["test_accuracy"] == before["test_accuracy"]
  one_step_runs.run(
    one_step_data, path, 1, optimizer__learning_rate=0.05
  )  # finished: tests nothing
  assert test_uses.count(path) == 2


def test_single_seeds_are_compared_image_by_image(single_runs, tmp_path):
  output = compare.compare(single_runs, output=tmp_path / "compare.html")
  (comparison,) = output["comparisons"]
  difference = comparison.verdict.difference
  assert isinstance(difference, ImageDifference) and difference.num_images == 144
  a, b = (json.loads((pathlib.Path(p) / "results.json").read_text()) for p in single_runs)
  assert difference.mean == pytest.approx(b["val_accuracy"] - a["val_accuracy"])
  assert "Train several seeds to compare the configs" in output["text"]
  assert "144 images" in comparison.sentence


def test_recorded_predictions_are_used_if_they_are_of_the_same_weights(
  single_runs, tmp_path, monkeypatch
):
  """test_evaluate.py checks that an evaluation writes these arrays."""
  path = tmp_path / "run"
  shutil.copytree(single_runs[0], path)
  step = load_run(path).step
  (path / "evaluation").mkdir()
  (path / "evaluation" / "evaluation.json").write_text(json.dumps({"seed": 0, "step": step}))
  logits = {"logits": np.eye(10, dtype=np.float32), "validation_logits": np.eye(10)[::-1]}
  labels = {"labels": np.arange(10), "validation_labels": np.array([9, 8, 0, 0, 0, 0, 0, 0, 0, 0])}
  np.savez(path / "evaluation" / "predictions.npz", **logits, **labels)
  monkeypatch.setattr(predictions, "predict_examples", lambda *_: pytest.fail("computed"))
  assert predictions.find_correct(path, 0, "test", "").all()
  assert np.flatnonzero(predictions.find_correct(path, 0, "validation", "")).tolist() == [0, 1, 9]
  edit(f"{path}/evaluation", "evaluation.json", step=step + 1)
  with pytest.raises(pytest.fail.Exception, match="computed"):
    predictions.find_correct(path, 0, "validation", "")


@pytest.mark.usefixtures("quick_compilation")
def test_a_seed_gives_layers_that_both_networks_have_the_same_weights():
  """What makes pairs of seeds more alike than other runs, besides order and augmentation."""

  def init(dense):
    section = ml_collections.ConfigDict({"name": "simple_cnn", "widths": (2,), "dense": dense})
    model = models.create(section, 10, dtype=np.float32)
    images = np.zeros((1, 4, 4, 3), np.float32)
    return jax.jit(lambda key: model.init(key, images, train=False)["params"])

  small, large = init((4,)), init((5,))
  a, b, other = (flatten(f(jax.random.key(s))) for f, s in ((small, 3), (large, 3), (small, 4)))
  shared = [name for name in a if name in b and a[name].shape == b[name].shape]
  kernels = [name for name in shared if name.endswith("kernel")]
  assert len(kernels) == 2  # the convolutions; the dense layers have other shapes
  for name in kernels:
    np.testing.assert_array_equal(a[name], b[name])
    assert not np.array_equal(a[name], other[name])
