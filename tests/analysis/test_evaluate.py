"""Evaluation of a run: its measures against scikit-learn and NumPy, and the files it writes."""

import errno
import json
import shutil

import jax
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn import metrics

from analysis import load_run
from analysis.evaluate import evaluate, evaluation_plots, measures
from cifar_jax import errors
from cifar_jax.runs import checkpoints, test_uses

FILES = [
  "classification_report.json",
  "classification_report.txt",
  "confusion_matrix.json",
  "confusion_matrix.png",
  "evaluation.json",
  "mistakes.png",
  "predictions.npz",
  "reliability.png",
]


@pytest.fixture(scope="module")
def evaluated(workdir):
  """What `evaluate` returns for the shared run."""
  return evaluate.evaluate(workdir)


def altered(workdir, path, **fields):
  """Copy a run with other fields in its config, and without results.json."""
  shutil.copytree(workdir, path, ignore=shutil.ignore_patterns("evaluation", "results.json"))
  config = json.loads((path / "config.json").read_text())
  for name, value in fields.items():
    section, _, field = name.rpartition("__")
    (config[section] if section else config)[field] = value
  (path / "config.json").write_text(json.dumps(config))
  return path


# --- Pictures ------------------------------------------------------------------------------------

NAMES = ["$\\foo$", "a\nb\x1b[2J", "c\udcff$"]


def test_class_names_are_drawn_as_they_are(tmp_path):
  """A $ does not start mathematics, and bytes that are no text are escaped."""
  title = "$\\frac$"
  evaluation_plots.draw_confusion_matrix(np.eye(3, dtype=int), NAMES, title, tmp_path / "a.png")
  mistake = {"test_image": 0, "true": NAMES[0], "predicted": NAMES[2], "probability": 0.5}
  images = np.zeros((1, 4, 4, 3), np.uint8)
  evaluation_plots.draw_mistakes(images, [mistake], title, tmp_path / "b.png")
  bins = [{"low": 0.0, "high": 1.0, "count": 1, "confidence": 0.5, "accuracy": 1.0}]
  calibration = {"ece": 0.5, "confidence": 0.5, "bins": bins}
  evaluation_plots.draw_reliability(calibration, title, tmp_path / "c.png")
  assert len(list(tmp_path.glob("*.png"))) == 3


# --- Measures ------------------------------------------------------------------------------------


def logits_and_labels(classes=10, n=500, seed=0):
  random = np.random.default_rng(seed)
  labels = random.integers(0, classes, n).astype(np.int32)
  logits = random.normal(size=(n, classes)).astype(np.float32) * 2
  logits[np.arange(n), labels] += 1.5
  return logits, labels


def test_measures_are_scikit_learns():
  logits, labels = logits_and_labels()
  p = scipy.special.softmax(logits.astype(np.float64), axis=1)
  measured = measures.measure(logits, labels)
  assert measured["loss"] == pytest.approx(metrics.log_loss(labels, p), rel=1e-9)
  assert measured["accuracy"] == metrics.accuracy_score(labels, logits.argmax(1))
  assert measured["top5"] == metrics.top_k_accuracy_score(labels, logits, k=5)
  assert measures.measure(np.log(p), labels) == pytest.approx(measured, rel=1e-9)


def test_equal_and_undefined_logits_earn_nothing():
  labels = np.arange(10)
  equal = measures.measure(np.zeros((10, 10), np.float32), labels)
  assert (equal["accuracy"], equal["top5"]) == (0.1, 0.5)  # by the numbers of the classes
  undefined = measures.measure(np.full((10, 10), np.nan, np.float32), labels)
  assert (undefined["accuracy"], undefined["top5"]) == (0, 0)


def test_top5_of_three_classes_is_one():
  assert measures.measure(*logits_and_labels(classes=3))["top5"] == 1.0


def predictions(confidences: list[float], correct: list[bool]) -> tuple[np.ndarray, np.ndarray]:
  """Return probabilities [n, 3] whose maxima are `confidences`, and labels [n]."""
  p = np.array([[c, (1 - c) * 0.7, (1 - c) * 0.3] for c in confidences])
  return p, np.where(correct, 0, 1)


def test_calibration_error_by_hand():
  # One of two predictions with confidence 0.9 is correct, and both with confidence 0.75.
  calibration = measures.measure_calibration(
    *predictions([0.9, 0.9, 0.75, 0.75], [True, False, True, True])
  )
  assert calibration["ece"] == pytest.approx((0.4 + 0.25) / 2)
  assert calibration["confidence"] == pytest.approx(0.825)
  assert [(i, b["count"]) for i, b in enumerate(calibration["bins"]) if b["count"]] == [
    (11, 2),
    (13, 2),
  ]
  assert calibration["bins"][13]["accuracy"] == 0.5
  assert calibration["bins"][0] == {
    "low": 0.0,
    "high": pytest.approx(1 / 15),
    "count": 0,
    "confidence": None,
    "accuracy": None,
  }


@pytest.mark.parametrize(
  ("confidences", "correct", "error"),
  [
    ([1.0, 1.0], [True, True], 0.0),
    ([1.0, 1.0], [False, False], 1.0),
    ([0.6, 0.6, 0.6, 0.6, 0.6], [True, True, True, False, False], 0.0),
    ([0.8, 0.79], [True, False], 0.295),  # 0.8 = 12 / 15 is the upper edge of the bin of both
  ],
)
def test_calibration_error_of_simple_cases(confidences, correct, error):
  calibration = measures.measure_calibration(*predictions(confidences, correct))
  assert calibration["ece"] == pytest.approx(error, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 30), st.integers(1, 300))
def test_calibration_error_is_a_sum_over_images(seed, bins, classes, n):
  random = np.random.default_rng(seed)
  p = random.dirichlet(np.full(classes, 0.3), n)
  labels = random.integers(0, classes, n)
  # |sum of (correct - confidence)| in each bin; rounding up gives the bins.
  confidences = p.max(axis=1)
  surplus = (p.argmax(axis=1) == labels) - confidences
  indices = np.clip(np.ceil(confidences * bins).astype(int), 1, bins)
  expected = np.abs(np.bincount(indices, weights=surplus)).sum() / n
  calibration = measures.measure_calibration(p, labels, bins)
  assert calibration["ece"] == pytest.approx(expected, abs=1e-9)
  assert sum(b["count"] for b in calibration["bins"]) == n


@pytest.mark.parametrize(("share", "gap"), [(0.9, 1.0), (0.7, 5.0), (0.51, 0.3)])
def test_the_temperature_of_two_classes_is_known(share, gap):
  """If all logits are the same, the calibrated probability is the share of correct ones."""
  labels = (np.arange(1000) >= 1000 * share).astype(int)
  logits = np.tile(np.array([gap, 0.0], np.float32), (1000, 1))
  expected = gap / np.log(share / (1 - share))
  assert measures.fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-3)


def test_the_temperature_has_the_lowest_cross_entropy():
  """At the optimum the mean of the true class's logit is the mean under the probabilities."""
  logits, labels = logits_and_labels(n=2000)
  logits *= 3
  temperature = measures.fit_temperature(logits, labels)
  p = measures.softmax(logits / temperature)
  of_label = logits[np.arange(len(labels)), labels].mean()
  assert (p * logits).sum(1).mean() == pytest.approx(of_label, rel=1e-3)
  best = metrics.log_loss(labels, p)
  for factor in (0.9, 1.1):
    worse = measures.softmax(logits / (temperature * factor))
    assert metrics.log_loss(labels, worse) > best
  before = measures.measure_calibration(measures.softmax(logits), labels)["ece"]
  assert measures.measure_calibration(p, labels)["ece"] < before / 3


def test_undefined_logits_have_no_temperature():
  assert measures.fit_temperature(np.array([[1.0, np.nan]]), np.array([0])) is None


# --- Whole evaluations ---------------------------------------------------------------------------


def hidden_files(workdir):
  """Return the names of temporary files and folders anywhere in a run folder."""
  return [path.name for path in workdir.rglob(".*") if path.name != ".lock"]


def test_the_folder_holds_all_files_and_no_temporary_ones(workdir, evaluated):
  assert sorted(path.name for path in (workdir / "evaluation").iterdir()) == FILES
  assert evaluated["files"] == [str(workdir / "evaluation" / name) for name in FILES]
  assert hidden_files(workdir) == []
  assert (
    json.loads((workdir / "evaluation" / "evaluation.json").read_text()) == evaluated["evaluation"]
  )
  for name in FILES:
    if name.endswith(".png"):
      with Image.open(workdir / "evaluation" / name) as image:
        image.load()
        assert min(image.size) > 300


def test_measures_are_those_of_results_json(workdir, evaluated):
  recorded = json.loads((workdir / "results.json").read_text())
  splits = evaluated["evaluation"]["splits"]
  assert list(splits) == ["train", "validation", "test"]
  assert [splits[name]["examples"] for name in splits] == [1293, 144, 360]
  for split, short in (("train", "train"), ("validation", "val"), ("test", "test")):
    for name in ("loss", "accuracy", "top5", *["objective"] * (split != "train")):
      value = recorded[f"{short}_{name}"]
      assert splits[split][name] == pytest.approx(value, rel=1e-4), (split, name)
      comparison = evaluated["evaluation"]["recorded"][f"{short}_{name}"]
      assert comparison == {"value": value, "difference": splits[split][name] - value}
  assert f"results.json has test accuracy {recorded['test_accuracy']:.2%}" in evaluated["text"]
  assert "here +0.00 points" in evaluated["text"]


def test_the_loss_with_its_penalty_is_in_every_split(workdir, evaluated, tmp_path):
  kernels = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(load_run(workdir).variables["params"])
    if "kernel" in str(path)
  ]
  penalty = 1e-4 * sum(np.sum(np.asarray(kernel, np.float64) ** 2) for kernel in kernels)
  splits = evaluated["evaluation"]["splits"]
  for split in splits.values():
    assert split["objective"] - split["loss"] == pytest.approx(penalty, rel=1e-5)
  lines = evaluated["text"].splitlines()
  assert lines[2].split() == ["split", "images", "loss", "loss", "+", "penalty", "top-1", "top-5"]
  assert f"{splits['test']['objective']:.4f}" in lines[5].split()
  output = evaluate.evaluate(altered(workdir, tmp_path / "run", loss__l2=[]))
  assert "objective" not in output["evaluation"]["splits"]["test"]
  assert "loss + penalty" not in output["text"]


def test_the_report_is_scikit_learns_on_the_saved_predictions(workdir, evaluated):
  folder = workdir / "evaluation"
  with np.load(folder / "predictions.npz", allow_pickle=False) as saved:
    logits, labels = saved["logits"], saved["labels"]
  run = load_run(workdir)
  dataset, _ = run.load_data()
  np.testing.assert_array_equal(labels, dataset.test.labels)
  np.testing.assert_allclose(logits, run.logits(dataset.test.images), rtol=1e-4, atol=1e-5)
  names, predicted = run.class_names, logits.argmax(1)
  options = {"target_names": names, "zero_division": 0}
  expected = metrics.classification_report(labels, predicted, **options)
  assert (folder / "classification_report.txt").read_text() == expected
  assert f"Classification Report\n{expected.rstrip()}" in evaluated["text"]
  numbers = json.loads((folder / "classification_report.json").read_text())
  assert numbers == metrics.classification_report(labels, predicted, output_dict=True, **options)
  counts = np.zeros((10, 10), int)
  np.add.at(counts, (labels, predicted), 1)
  matrix = json.loads((folder / "confusion_matrix.json").read_text())
  assert (matrix["rows"], matrix["columns"]) == ("true", "predicted")
  np.testing.assert_array_equal(matrix["counts"], counts)
  assert numbers["3"]["recall"] == pytest.approx(counts[3, 3] / counts[3].sum())
  rows = evaluated["text"].split("Confusion Matrix\n")[1].splitlines()
  assert rows[0].split() == names
  assert [row.split() for row in rows[1:11]] == [
    [name, *map(str, row)] for name, row in zip(names, counts, strict=True)
  ]


def test_the_temperature_is_fitted_on_validation_and_judged_on_test(workdir, evaluated):
  with np.load(workdir / "evaluation" / "predictions.npz", allow_pickle=False) as saved:
    logits, labels = saved["logits"], saved["labels"]
    fitted = measures.fit_temperature(saved["validation_logits"], saved["validation_labels"])
    assert len(saved["validation_labels"]) == 144
  scaling = evaluated["evaluation"]["temperature_scaling"]
  assert (scaling["temperature"], scaling["fitted_on"]) == (fitted, 144)
  p = scipy.special.softmax(logits.astype(np.float64) / fitted, axis=1)
  assert scaling["loss"] == pytest.approx(metrics.log_loss(labels, p), rel=1e-5)
  ece = measures.measure_calibration(p, labels)["ece"]
  assert scaling["calibration"]["ece"] == pytest.approx(ece, abs=1e-5)
  assert f"With the temperature {fitted:.3f}, fitted on 144 validation im" in evaluated["text"]
  assert f"→ {ece:.2%}" in evaluated["text"]


def test_classes_that_are_missing_have_their_rows():
  labels, predicted = np.array([0, 0, 2]), np.array([0, 2, 2])
  class_report = measures.report_classes(labels, predicted, ["a", "b", "c"])
  assert class_report["numbers"]["b"]["support"] == 0
  assert measures.count_confusions(labels, predicted, 3).tolist() == [
    [1, 0, 1],
    [0, 0, 0],
    [0, 0, 1],
  ]


def test_mistakes_are_the_most_confident(workdir, evaluated):
  run = load_run(workdir)
  test = run.load_data()[0].test
  p = run.predict(test.images)
  mistakes = evaluated["evaluation"]["mistakes"]
  wrong = p.argmax(1) != test.labels
  assert len(mistakes) == min(25, wrong.sum())
  confidences = [mistake["probability"] for mistake in mistakes]
  assert confidences == sorted(confidences, reverse=True)
  np.testing.assert_allclose(confidences, np.sort(p.max(1)[wrong])[::-1][:25], rtol=1e-4)
  for mistake in mistakes:
    i = mistake["test_image"]
    assert mistake["true"] == run.class_names[test.labels[i]] != mistake["predicted"]


def test_augmentation_is_measured_separately(workdir, evaluated, tmp_path):
  path = altered(workdir, tmp_path / "run")
  uses = test_uses.count(path)
  output = evaluate.evaluate(path, tta="flip")
  assert output["evaluation"]["test_uses"] == test_uses.count(path) == uses + 2
  used = f"test images used {uses + 2} times, this evaluation included"
  assert used in output["text"].splitlines()
  plain, tta = (
    output["evaluation"]["splits"]["test"],
    output["evaluation"]["test_time_augmentation"],
  )
  assert evaluated["evaluation"]["test_time_augmentation"] is None
  assert plain == evaluated["evaluation"]["splits"]["test"]
  assert (tta["kind"], tta["views"]) == ("flip", 2)
  run = load_run(path)
  test = run.load_data()[0].test
  both = [run.logits(images) for images in (test.images, test.images[:, :, ::-1])]
  mean = scipy.special.softmax(np.array(both, np.float64), axis=-1).mean(0)
  assert tta["accuracy"] == pytest.approx(np.mean(mean.argmax(1) == test.labels), abs=1e-9)
  loss = -np.log(mean[np.arange(len(mean)), test.labels]).mean()
  assert tta["loss"] == pytest.approx(loss, rel=1e-4)
  assert tta["loss"] != pytest.approx(plain["loss"], rel=1e-3)
  for name in ("loss", "accuracy", "top5"):
    assert tta["gain"][name] == pytest.approx(tta[name] - plain[name])
  assert "Test-time augmentation flip (2 views): test accuracy" in output["text"]
  table = output["text"].split("Confusion Matrix")[1].split("Test-time")[0]
  assert table in evaluated["text"]  # the figures are without augmentation
  with pytest.raises(errors.UserError, match=r"tta: there is no 'flop'; use one of: flip, flip_s"):
    evaluate.evaluate(path, tta="flop")


def test_selection_on_the_test_set_is_noted(workdir, evaluated, tmp_path):
  path = altered(workdir, tmp_path / "run", data__validation="test")
  output = evaluate.evaluate(path)
  assert output["evaluation"]["selected_on"] == "test"
  assert "NOTE: selected on the test set, so the test figures are optimistic" in output["text"]
  splits = output["evaluation"]["splits"]
  assert splits["validation"] == splits["test"]
  assert output["evaluation"]["temperature_scaling"] is None  # nothing to fit it on honestly
  assert evaluated["evaluation"]["selected_on"] == "validation" and "NOTE" not in evaluated["text"]


def test_an_empty_split_is_skipped_and_an_unfinished_run_evaluated(workdir, tmp_path):
  path = altered(workdir, tmp_path / "run", data__validation=0)
  output = evaluate.evaluate(path)
  assert list(output["evaluation"]["splits"]) == ["train", "test"]
  assert output["evaluation"]["recorded"] is None
  assert output["evaluation"]["temperature_scaling"] is None
  assert "validation  " not in output["text"] and "results.json" not in output["text"]


def test_each_seed_is_compared_with_its_results(workdir, evaluated, tmp_path):
  path = altered(workdir, tmp_path / "run", num_seeds=2)
  run = load_run(workdir)
  other = jax.tree.map(lambda leaf: leaf * 0.5, run.variables)
  both = jax.tree.map(lambda a, b: np.stack([a, b]), other, run.variables)
  shutil.rmtree(path / "checkpoints")
  store = checkpoints.Checkpoints(path)
  store.save_best([run.step], both)
  store.close()
  plain = evaluated["evaluation"]["splits"]["test"]
  per_seed = [{"seed": 0, "test_accuracy": 0.5}, {"seed": 1, "test_accuracy": plain["accuracy"]}]
  (path / "results.json").write_text(json.dumps({"test_accuracy": 0.3, "per_seed": per_seed}))
  output = evaluate.evaluate(path, seed=1)
  assert output["evaluation"]["seed"] == 1
  assert output["evaluation"]["splits"]["test"] == pytest.approx(plain)
  assert output["evaluation"]["recorded"]["test_accuracy"]["difference"] == pytest.approx(0)


def test_a_failed_write_leaves_the_earlier_files(workdir, evaluated, monkeypatch):
  del evaluated

  def fail(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")

  folder = workdir / "evaluation"
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  monkeypatch.setattr(evaluation_plots, "draw_mistakes", fail)
  with pytest.raises(errors.UserError, match=r"evaluation: cannot be written \(No space left"):
    evaluate.evaluate(workdir)
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
  assert hidden_files(workdir) == []


def test_a_folder_without_a_checkpoint_is_rejected(workdir, tmp_path):
  path = altered(workdir, tmp_path / "run")
  shutil.rmtree(path / "checkpoints")
  with pytest.raises(errors.UserError, match="holds no selected weights"):
    evaluate.evaluate(path)
  assert not (path / "evaluation").exists()
  with pytest.raises(errors.UserError, match="not a run folder"):
    evaluate.evaluate(tmp_path)


# --- Pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, 100, 300])
def test_confusion_matrix_of_any_number_of_classes(classes, tmp_path):
  counts = np.eye(classes, dtype=int) * 50
  counts[1] = 0  # a class without images
  names = [f"class {i}" for i in range(classes)]
  evaluation_plots.draw_confusion_matrix(counts, names, "a run", tmp_path / "matrix.png")
  with Image.open(tmp_path / "matrix.png") as image:
    assert 300 < image.width < 2500
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
  assert (8, 48, 107) in colours  # the colour of a share of 1


@pytest.mark.parametrize(("channels", "count"), [(1, 3), (3, 25), (3, 0)])
def test_mistakes_of_any_number_of_images_and_channels(channels, count, tmp_path):
  images = np.full((30, 8, 8, channels), 200, np.uint8)
  mistake = {"true": "cat", "predicted": "dog", "probability": 0.9}
  mistakes = [mistake | {"test_image": i} for i in range(count)]
  evaluation_plots.draw_mistakes(images, mistakes, "a run", tmp_path / "mistakes.png")
  with Image.open(tmp_path / "mistakes.png") as image:
    share = np.all(np.asarray(image.convert("RGB")) == 200, axis=-1).mean()
  assert (share > 0.05) == (count > 0)
