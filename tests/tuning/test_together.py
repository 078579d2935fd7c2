"""Trials trained together against the same trials one after the other."""

import gc
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from etils import epath

import models
import train
from analysis.run import load_run
from cifar_jax.runtime import signals
from configs import sweeps
from models import layers
from tuning import sweep, together, training
from tuning.trials import expand, name_trial

SMOOTH = {"model.name": "smooth", "model.widths": None, "model.dense": None}
# Two steps an epoch. Plateau and early stopping act at another epoch in each trial.
BASE = SMOOTH | {
  "lookahead.every": 0,
  "num_epochs": 4,
  "data.train_examples": 160,
  "optimizer.learning_rate": 0.01,
  "plateau.monitor": "val_loss",
  "plateau.patience": 1,
  "plateau.factor": 0.5,
  "plateau.min_delta": 0.25,
  "early_stopping.monitor": "train_loss",
  "early_stopping.patience": 1,
  "early_stopping.min_delta": 0.35,
}
RATE = "optimizer.learning_rate"
TRIALS = [
  {},
  {RATE: 0.05, "seed": 3, "optimizer.weight_decay": 1.0},
  {RATE: 0.02, "optimizer.momentum": 0.5, "loss.label_smoothing": 0.3},
  {RATE: 1e25, "seed": 1},  # its loss becomes NaN
]


class Smooth(nn.Module):
  """Convolution, batch norm and dropout, without ReLU and max-pooling.

  At the kink of a ReLU and at ties of max-pooling, of which the digits have many, rounding decides
  the gradient, and runs diverge: those of one trial on eight devices and on one do, too.
  """

  num_classes: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images, train):
    x = nn.Conv(4, (4, 4), (4, 4), name="conv")(images)
    x = layers.batch_norm(train, jnp.float32, self.axis_name)(name="norm")(nn.tanh(x))
    x = layers.Dropout(0.3, deterministic=not train, axis_name=self.axis_name)(x)
    return layers.dense_logits(x.reshape(len(x), -1), self.num_classes, nn.initializers.normal(0.1))


def smooth(num_classes, axis_name, **common):
  return Smooth(num_classes, axis_name)


@pytest.fixture(scope="module", autouse=True)
def smooth_is_a_model():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(models._REGISTRY, "smooth", (smooth, {}))
    yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A sweep with its trials together, stopped once and resumed, and with one after the other."""
  root = tmp_path_factory.mktemp("sweeps")
  config = small_runs.config(root / "data", **BASE)
  answers = iter([False, True])  # after each epoch: whether a signal has come
  with small_runs.quick_compilation():
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(train, "any_process", lambda stop: next(answers))
      with pytest.raises(signals.Interrupted):
        sweep.run_sweep(sweeps.listed(TRIALS, at_once=4), config, root / "together")
    gc.collect()  # releases the lock of the stopped run
    (group,) = (root / "together" / "together").glob("*/metrics.jsonl")
    assert len(group.read_text().splitlines()) == 2
    assert not (root / "together" / "trials").exists()
    summaries = [
      sweep.run_sweep(sweeps.listed(TRIALS, at_once=at_once), config, root / way)
      for way, at_once in (("together", 4), ("alone", 1))
    ]
    return root, *summaries


def read_rows(run):
  """Return the rows of a run's metrics.jsonl."""
  return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_rankings_agree(folders):
  _, summary, expected = folders
  assert [e["name"] for e in summary["ranking"]] == [e["name"] for e in expected["ranking"]]
  assert [e["status"] for e in summary["ranking"]] == ["finished"] * 3 + ["failed"]
  assert summary["best"]["val_accuracy"] == expected["best"]["val_accuracy"]
  for one, other in zip(summary["trials"], expected["trials"], strict=True):
    assert one["status"] == other["status"]
    if one["status"] == "failed":
      assert one["error"].replace("together", "alone") == other["error"].replace(
        "together", "alone"
      )


@pytest.mark.parametrize("fields", TRIALS[:-1], ids=name_trial)
def test_run_folders_agree(folders, fields):
  root, _, _ = folders
  one, other = (root / way / "trials" / name_trial(fields) for way in ("together", "alone"))
  for file in ("config.json", "dataset.json"):
    assert (one / file).read_text() == (other / file).read_text()
  for row, expected in zip(read_rows(one), read_rows(other), strict=True):
    assert list(row) == list(expected)
    for name in row.keys() - {"seconds", "images_per_second"}:
      assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
  results, expected = (json.loads((run / "results.json").read_text()) for run in (one, other))
  assert results.pop("trained_together") == 4
  assert results.keys() == expected.keys()
  assert [name for name in results if name.startswith("test_")] == ["test_uses"]
  assert results["test_uses"] == 0
  for name in results.keys() - {"seconds_to_train", "compile_seconds", "finished", "memory"}:
    if isinstance(results[name], float):
      assert results[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
    else:
      assert results[name] == expected[name], name
  assert (one / "plots" / "learning_curves.png").exists() and list((one / "tensorboard").iterdir())


def test_run_folders_load(folders):
  root, _, _ = folders
  for fields in TRIALS[:-1]:
    name = name_trial(fields)
    one, other = (load_run(root / way / "trials" / name) for way in ("together", "alone"))
    assert one.seed == other.seed == fields.get("seed", 0)
    images = one.load_data()[0].test.images[:50]
    np.testing.assert_allclose(one.logits(images), other.logits(images), rtol=1e-4, atol=1e-5)


def test_trials_differ_and_stop_early_at_different_epochs(folders):
  root, _, _ = folders
  rows = [read_rows(root / "together" / "trials" / name_trial(fields)) for fields in TRIALS[:-1]]
  assert len({trial_rows[0]["val_loss"] for trial_rows in rows}) == 3
  assert [len(trial_rows) for trial_rows in rows] == [3, 4, 3]
  rates = [[row["learning_rate"] for row in trial_rows] for trial_rows in rows]
  np.testing.assert_allclose(rates[0], [0.01, 0.01, 0.005], rtol=1e-6)
  np.testing.assert_allclose(rates[1][:2], [0.05, 0.05], rtol=1e-6)
  assert not list((root / "together" / "together").iterdir())


def test_a_trial_that_paused_goes_on_with_the_same_bits(folders, tmp_path):
  root, _, _ = folders
  config, once = small_runs.config(root / "data", **BASE), root / "alone" / "trials" / "base"
  with small_runs.quick_compilation():
    with pytest.raises(train.Paused):
      train.train_and_evaluate(config, str(tmp_path), pause=lambda rows: len(rows) == 1)
    assert len(read_rows(tmp_path)) == 1 and not (tmp_path / "results.json").exists()
    train.train_and_evaluate(config, str(tmp_path), evaluate_test=False)
  small_runs.assert_same(small_runs.final_state(once), small_runs.final_state(tmp_path))
  assert small_runs.comparable(once) == small_runs.comparable(tmp_path)


# --- Which trials train together -----------------------------------------------------------------


def grouped(tmp_path, trials, at_once=0, **base):
  config = small_runs.config(tmp_path / "data", **base)
  listed = sweeps.listed(trials, at_once=at_once)
  expanded = expand(listed, config, epath.Path(tmp_path))
  groups = together.group_trials(expanded, epath.Path(tmp_path), together.max_group_size(listed))
  return [[trials[expanded.index(trial)] for trial in group] for group in groups]


def test_trials_that_differ_in_numbers_and_seeds_train_together(tmp_path):
  same = [
    {},
    {RATE: 0.1},
    {"seed": 1},
    {"optimizer.weight_decay": 0.1},
    {"optimizer.momentum": 0.5},
  ]
  other = [{"model.widths": (4, 8)}, {"model.widths": (4, 8), RATE: 1.0}]
  assert grouped(tmp_path, [*same, *other], 9) == [same, other]
  assert grouped(tmp_path, [*same, *other], 2) == [same[:2], same[2:4], same[4:], other]


@pytest.mark.parametrize(
  "fields",
  [
    {"batch_size": 40},
    {"optimizer.momentum": 0.0},  # without a velocity
    {"optimizer.nesterov": True},
    {"optimizer.clip_norm": 1.0},
    {"num_seeds": 2},
    {"schedule.name": "linear"},
    {"loss.l2": ()},
  ],
)
def test_trials_with_different_programs_train_apart(tmp_path, fields):
  assert grouped(tmp_path, [{}, fields], 9) == [[{}], [fields]]


def test_trials_with_a_plateaus_min_lr_share_their_rate(tmp_path):
  trials = [{}, {RATE: 0.1}, {"seed": 1}]
  plateau = {"plateau__monitor": "val_loss", "plateau__min_lr": 1e-3}
  assert grouped(tmp_path, trials, 9, **plateau) == [[{}, {"seed": 1}], [{RATE: 0.1}]]


def test_trials_that_stop_on_a_loss_spike_train_alone(tmp_path):
  trials = [{}, {RATE: 0.1}, {"seed": 1}]
  assert grouped(tmp_path, trials, 9, stop_on_spike__factor=2.0) == [[trial] for trial in trials]


def test_by_default_only_accelerators_and_one_process_train_together(tmp_path, monkeypatch):
  trials = [{"seed": seed} for seed in range(3)]
  assert grouped(tmp_path, trials) == [[trial] for trial in trials]
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert grouped(tmp_path, trials) == [trials]
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert grouped(tmp_path, trials, 3) == [[trial] for trial in trials]


def test_too_large_groups_are_halved(tmp_path, monkeypatch):
  tried = []  # group sizes

  def fit_two(group, folder):
    tried.append(len(group))
    return len(group) <= 2

  monkeypatch.setattr(together, "train_together", fit_two)
  monkeypatch.setattr(training, "_train_alone", lambda trial, _: tried.append(trial.name))
  monkeypatch.setattr(
    training.ranking, "read_state", lambda trial: {"status": "finished" if tried else "waiting"}
  )
  config = small_runs.config(tmp_path / "data")
  text = "seed=0,1,2,3,4"
  trials = expand(sweep.parse(text), config, epath.Path(tmp_path))
  training.train_group(trials, epath.Path(tmp_path), lambda *_: False)
  assert tried == [5, 2, 3, 2]


def test_a_group_that_is_out_of_memory_leaves_no_folder(tmp_path, monkeypatch):
  def too_large(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  monkeypatch.setattr(train, "train_and_evaluate", too_large)
  config = small_runs.config(tmp_path / "data")
  folder = epath.Path(tmp_path)
  trials = expand(sweep.parse("seed=0,1"), config, folder)
  assert not together.train_together(trials, folder)
  assert not together.folder_of(trials, folder).exists()


def test_a_group_that_is_an_error_trains_alone(tmp_path, monkeypatch, log_lines):
  alone = []
  monkeypatch.setattr(training, "_train_alone", lambda trial, _: alone.append(trial.name))
  # Images that are streamed serve one seed at a time.
  config = small_runs.config(tmp_path / "data", data__resident_bytes=0, **SMOOTH)
  sweep.run_sweep(sweep.parse("seed=0,1 at_once=2"), config, tmp_path / "out")
  assert alone == ["seed=0", "seed=1"]
  assert any(
    line.startswith("Training the trials one after the other: num_seeds:") for line in log_lines
  )
