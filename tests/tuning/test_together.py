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
from tuning import sweep
from tuning import together as tuning_together
from tuning.trials import expand, name_of

SMOOTH = {"model.name": "smooth", "model.widths": None, "model.dense": None}
# Two steps an epoch. Plateau and early stopping come at another time for each trial.
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
  """Convolution, batch norm, dropout: a network with neither ReLU nor max-pooling.

  Rounding decides at their kinks and ties, of which the digits have many, and the paths part: so
  do those of one trial on eight devices and on one.
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
  """The same sweep with its trials together, stopped once and resumed, and one after the other."""
  root = tmp_path_factory.mktemp("sweeps")
  config = small_runs.config(root / "data", **BASE)
  answers = iter([False, True])  # whether a signal has come, asked after each epoch
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train, "any_process", lambda stop: next(answers))
    with pytest.raises(signals.Interrupted):
      sweep.run_sweep(sweeps.listed(TRIALS, at_once=4), config, root / "together")
  gc.collect()  # and with it the stopped run's lock
  (group,) = (root / "together" / "together").glob("*/metrics.jsonl")
  assert len(group.read_text().splitlines()) == 2
  assert not (root / "together" / "trials").exists()
  together = sweep.run_sweep(sweeps.listed(TRIALS, at_once=4), config, root / "together")
  alone = sweep.run_sweep(sweeps.listed(TRIALS, at_once=1), config, root / "alone")
  return root, together, alone


def test_they_are_ranked_alike(folders):
  _, together, alone = folders
  assert [e["name"] for e in together["ranking"]] == [e["name"] for e in alone["ranking"]]
  assert [e["status"] for e in together["ranking"]] == ["finished"] * 3 + ["failed"]
  assert together["best"]["test_accuracy"] == alone["best"]["test_accuracy"]
  for one, other in zip(together["trials"], alone["trials"], strict=True):
    assert one["status"] == other["status"]
    if one["status"] == "failed":
      assert one["error"].replace("together", "alone") == other["error"].replace(
        "together", "alone"
      )


@pytest.mark.parametrize("fields", TRIALS[:-1], ids=name_of)
def test_a_trial_is_the_same_together_and_alone(folders, fields):
  root, _, _ = folders
  name = name_of(fields)
  one, other = (root / way / "trials" / name for way in ("together", "alone"))
  for file in ("config.json", "dataset.json"):
    assert (one / file).read_text() == (other / file).read_text()
  rows, expected = (
    [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for path in (one, other)
  )
  assert len(rows) == len(expected)
  for row, wanted in zip(rows, expected, strict=True):
    assert list(row) == list(wanted)
    for name in row.keys() - {"seconds", "images_per_second"}:
      assert row[name] == pytest.approx(wanted[name], rel=1e-5, abs=1e-6), name
  found, wanted = (json.loads((path / "results.json").read_text()) for path in (one, other))
  assert found.pop("trained_together") == 4
  assert found.keys() == wanted.keys()
  for name in found.keys() - {"seconds_to_train", "compile_seconds", "finished", "memory"}:
    if isinstance(found[name], float):
      assert found[name] == pytest.approx(wanted[name], rel=1e-5, abs=1e-6), name
    else:
      assert found[name] == wanted[name], name
  assert (one / "plots" / "learning_curves.png").exists() and list((one / "tensorboard").iterdir())


def test_the_run_folders_open(folders):
  root, _, _ = folders
  for fields in TRIALS[:-1]:
    name = name_of(fields)
    one, other = (load_run(root / way / "trials" / name) for way in ("together", "alone"))
    assert one.seed == other.seed == fields.get("seed", 0)
    images = one.load_data()[0].test.images[:50]
    np.testing.assert_allclose(one.logits(images), other.logits(images), rtol=1e-4, atol=1e-5)


def test_the_trials_really_differ_and_stop_on_their_own(folders):
  root, _, _ = folders
  rows = [
    (root / "together" / "trials" / name_of(fields) / "metrics.jsonl").read_text()
    for fields in TRIALS[:-1]
  ]
  assert len({json.loads(text.splitlines()[0])["val_loss"] for text in rows}) == 3
  assert [len(text.splitlines()) for text in rows] == [3, 4, 3]
  rates = [[json.loads(line)["learning_rate"] for line in text.splitlines()] for text in rows]
  np.testing.assert_allclose(rates[0], [0.01, 0.01, 0.005], rtol=1e-6)
  np.testing.assert_allclose(rates[1][:2], [0.05, 0.05], rtol=1e-6)
  assert not list((root / "together" / "together").iterdir())


# --- Which trials train together -----------------------------------------------------------------


def grouped(tmp_path, trials, at_once=0, **base):
  config = small_runs.config(tmp_path / "data", **base)
  expanded = expand(sweeps.listed(trials), config, epath.Path(tmp_path))
  found = tuning_together.groups(expanded, epath.Path(tmp_path), at_once)
  return [[trials[expanded.index(trial)] for trial in group] for group in found]


def test_what_differs_in_numbers_and_seeds_only_trains_together(tmp_path):
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
def test_what_changes_the_program_does_not(tmp_path, fields):
  assert grouped(tmp_path, [{}, fields], 9) == [[{}], [fields]]


def test_rates_do_not_share_a_plateaus_lowest_rate(tmp_path):
  trials = [{}, {RATE: 0.1}, {"seed": 1}]
  plateau = {"plateau__monitor": "val_loss", "plateau__min_lr": 1e-3}
  assert grouped(tmp_path, trials, 9, **plateau) == [[{}, {"seed": 1}], [{RATE: 0.1}]]


def test_what_a_loss_spike_may_end_trains_alone(tmp_path):
  trials = [{}, {RATE: 0.1}, {"seed": 1}]
  assert grouped(tmp_path, trials, 9, stop_on_spike__factor=2.0) == [[trial] for trial in trials]


def test_together_is_for_accelerators_unless_asked_for(tmp_path, monkeypatch):
  trials = [{"seed": seed} for seed in range(3)]
  assert grouped(tmp_path, trials) == [[trial] for trial in trials]
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert grouped(tmp_path, trials) == [trials]
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert grouped(tmp_path, trials, 3) == [[trial] for trial in trials]


def test_with_too_little_memory_the_halves_are_tried(tmp_path, monkeypatch):
  tried = []

  def fit_two(group, folder):
    tried.append(len(group))
    return len(group) <= 2

  monkeypatch.setattr(tuning_together, "train_together", fit_two)
  monkeypatch.setattr(sweep, "_run_alone", lambda trial: tried.append(trial.name))
  monkeypatch.setattr(
    sweep.sweep_results, "state", lambda trial: {"status": "finished" if tried else "waiting"}
  )
  config = small_runs.config(tmp_path / "data")
  text = "seed=0,1,2,3,4"
  trials = expand(sweep.parse(text), config, epath.Path(tmp_path))
  sweep._run(trials, epath.Path(tmp_path))
  assert tried == [5, 2, 3, 2]


def test_memory_that_runs_out_leaves_no_group_behind(tmp_path, monkeypatch):
  def too_large(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  monkeypatch.setattr(train, "train_and_evaluate", too_large)
  config = small_runs.config(tmp_path / "data")
  folder = epath.Path(tmp_path)
  trials = expand(sweep.parse("seed=0,1"), config, folder)
  assert not tuning_together.train_together(trials, folder)
  assert not tuning_together.folder_of(trials, folder).exists()


def test_what_cannot_be_trained_together_is_trained_alone(tmp_path, monkeypatch, log_lines):
  alone = []
  monkeypatch.setattr(sweep, "_run_alone", lambda trial: alone.append(trial.name))
  # Images that are streamed serve one seed at a time.
  config = small_runs.config(tmp_path / "data", data__resident_bytes=0, **SMOOTH)
  sweep.run_sweep(sweep.parse("seed=0,1 at_once=2"), config, tmp_path / "out")
  assert alone == ["seed=0", "seed=1"]
  assert any(line.startswith("Not together: num_seeds: several seeds need") for line in log_lines)
