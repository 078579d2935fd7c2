"""--mode=verify, with trainings that only write what real ones would leave."""

import functools
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
import written_runs

from cifar_jax import errors
from configs import default, quickstart
from experiment import Experiment
from trust import perturbed, short_config, verify
from trust.processes import virtual_devices

WEIGHTS = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)
NOISE = np.random.default_rng(1).normal(size=(20, 10)).astype(np.float32) * np.float32(1e-6)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """Run folders that were written before, by their content."""
  return tmp_path_factory.mktemp("written"), {}


@pytest.fixture
def outcome(tmp_path, written, data_dir):
  """verify_changed for the small run on digits."""
  config = small_runs.config(data_dir, batch_size=80)
  return functools.partial(verify_changed, tmp_path, written, config)


def write_run(written, path, weights, losses):
  """Write a run folder, or copy one that was written before."""
  root, folders = written
  key = (weights.tobytes(), repr(losses))
  if key not in folders:
    folders[key] = root / str(len(folders))
    written_runs.write_run(folders[key], weights, losses)
  shutil.copytree(folders[key], path)


def verify_changed(tmp_path, written, config, changes, kills=(True, True, True)):
  """Return what verify makes of trainings whose weights differ by `changes`, by name of the job."""

  def finish(job):
    name = job.workdir.name
    weights = WEIGHTS + changes.get(name, np.float32(0))
    if name == "perturbed_short":
      assert (job.program, job.config.dtype) == ("trust.perturbed", "float32")
      weights = WEIGHTS + NOISE
    if name.startswith("devices"):
      assert virtual_devices(2) in job.xla_flags
    losses = (2.0, 1.0)
    if job.config.num_seeds > 1:
      weights, losses = np.stack([weights] * 2), ([2.0, 2.0], [1.0, 1.0])
    if not (weights == WEIGHTS).all():
      losses = (2.0, 1.5)
    write_run(written, job.workdir, weights, losses)

  kills = list(kills)
  return verify.verify(
    config,
    tmp_path / "verify",
    finish=finish,
    interrupt=lambda job, number, is_time: kills.pop(0),
  )


def verdicts(result):
  return [line.verdict for line in result["lines"]]


def test_the_same_bits_everywhere(outcome):
  result = outcome({})
  assert verdicts(result) == ["same bits"] * 5
  assert result["holds"]
  assert "everything promised holds" in result["text"]
  assert "stopped 3 times and resumed" in result["text"]


def test_a_run_that_ends_before_the_kill_is_counted_right(outcome):
  assert "stopped 1 times" in outcome({}, kills=(True, False))["text"]


@pytest.mark.parametrize("job", ["again", "resumed"])
def test_one_bit_breaks_a_promise(outcome, job):
  """One weight differs by one unit in the last place, as another rounding makes it."""
  change = np.zeros_like(WEIGHTS)
  change[3, 4] = np.spacing(WEIGHTS[3, 4])
  result = outcome({job: change, f"{job}_short": change, "perturbed": NOISE})
  assert not result["holds"]
  assert verdicts(result).count("same to rounding") == 1
  assert "same to rounding (!)" in result["text"]


def test_other_devices_may_round_differently(outcome):
  result = outcome({"devices": NOISE, "devices_short": 5 * NOISE})
  assert verdicts(result)[2] == "same to rounding"
  assert result["holds"]
  norm = np.linalg.norm(NOISE) / np.linalg.norm(WEIGHTS)
  assert result["lines"][2].difference.weights == pytest.approx(5 * norm, rel=0.1)
  assert result["lines"][2].difference.epoch == 2


def test_another_computation_on_other_devices_is_not_rounding(outcome):
  result = outcome({"devices": NOISE, "devices_short": 20 * NOISE})
  assert verdicts(result)[2] == "different"
  assert not result["holds"]
  assert "NOT as promised (!): 2 devices instead of 1" in result["text"]


def test_a_seed_that_differs_in_company_is_found(outcome):
  result = outcome({"seed_1": NOISE, "seed_1_short": 20 * NOISE})
  assert verdicts(result) == ["same bits"] * 4 + ["different"]


def test_flags_of_the_platform_are_tried_and_their_cost_is_shown(outcome, monkeypatch):
  monkeypatch.setitem(verify.FLAGS, "cpu", ("--xla_sum_in_order",))
  result = outcome({"again": NOISE, "again_short": NOISE}, kills=[True] * 6)
  assert result["holds"]
  assert verdicts(result)[0] == "same to rounding"
  assert verdicts(result)[5:] == ["same bits"] * 2
  assert "--xla_sum_in_order: 1.00 times the speed" in result["text"]


def test_flags_that_do_not_help_leave_the_promise_broken(outcome, monkeypatch):
  monkeypatch.setitem(verify.FLAGS, "cpu", ("--xla_sum_in_order",))
  names = ("again", "again_short", "flags_again", "flags_again_short")
  assert not outcome(dict.fromkeys(names, NOISE), kills=[True] * 6)["holds"]


def test_a_batch_that_does_not_divide_is_not_tried_on_two_devices(tmp_path, written, data_dir):
  config = small_runs.config(data_dir, batch_size=125)
  result = verify_changed(tmp_path, written, config, {})
  assert "the batch does not divide over 2 devices" in result["text"]
  assert result["holds"]


def test_a_folder_with_files_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="is not empty; pass another folder"):
    verify.verify(default.get_config(), tmp_path)


def dataset(num_images: int) -> types.SimpleNamespace:
  split = types.SimpleNamespace(labels=np.arange(num_images) % 10)
  return types.SimpleNamespace(name="cifar10", train=split, test=split)


def test_shorten_keeps_network_batch_and_augmentation():
  config = quickstart.get_config()
  config.data.file_by_file = True
  short = short_config.shorten(config, 2, 8, dataset(50_000))
  assert (short.num_epochs, short.data.train_examples) == (2, 8 * 512)
  assert (short.data.epoch_examples, short.data.file_by_file) == (0, False)
  assert repr(short.data.validation) == "1000"  # a count, not a fraction
  assert (short.model, short.augment, short.batch_size) == (config.model, config.augment, 512)
  config.data.validation = "last:0.2"
  assert short_config.shorten(config, 2, 8, dataset(50_000)).data.validation == "last:0.2"


def test_shorten_takes_all_of_a_small_dataset():
  short = short_config.shorten(quickstart.get_config(), 2, 8, dataset(2_000))
  assert (short.data.train_examples, short.data.validation) == (0, 0.1)


def test_the_yardstick_changes_the_last_bit_of_images_in_every_step(monkeypatch):
  monkeypatch.setattr(Experiment, "train_step", lambda self, model: lambda state, batch: batch)
  experiment = object.__new__(perturbed.PerturbedExperiment)
  images = jnp.full((2, 4, 4, 3), 3.0)
  for dtype, epsilon in (("float32", 2**-23), ("bfloat16", 2**-7)):
    experiment.config = types.SimpleNamespace(dtype=dtype)
    step = experiment.train_step(None)
    first, second = (
      step(types.SimpleNamespace(step=jnp.int32(i)), {"image": images, "label": i})["image"]
      for i in (0, 1)
    )
    ratios = np.unique(np.asarray(first, np.float64) / 3 - 1)
    np.testing.assert_allclose(np.abs(ratios), epsilon, rtol=0.5)
    assert ratios.min() < 0 < ratios.max()
    assert not np.array_equal(first, second)
