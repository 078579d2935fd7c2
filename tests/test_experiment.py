"""What a config becomes on an accelerator, which the tests pretend to have."""

import types

import jax
import numpy as np
import pytest
from fakes import fake_dataset

import experiment
import input_pipeline
from cifar_jax import errors
from cifar_jax.training import compiled_steps
from configs import default


@pytest.mark.parametrize(
  ("backend", "capabilities", "dtype"),
  [
    ("tpu", [None], "bfloat16"),
    ("gpu", ["7.0"], "float32"),  # V100
    ("gpu", ["7.5"], "float32"),  # T4
    ("gpu", ["8.0"], "bfloat16"),  # A100
    ("gpu", ["12.0"], "bfloat16"),
    ("gpu", ["9.0", "7.5"], "float32"),
    ("gpu", ["gfx90a"], "bfloat16"),  # AMD
  ],
)
def test_auto_is_bfloat16_where_the_devices_have_units_for_it(
  monkeypatch, backend, capabilities, dtype
):
  devices = [types.SimpleNamespace(compute_capability=c) for c in capabilities]
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  monkeypatch.setattr(jax, "devices", lambda: devices)
  assert experiment.resolve(default.get_config()).dtype == dtype


@pytest.mark.parametrize(
  ("section", "field", "value"),
  [
    ("model", "name", "resnet81"),
    ("optimizer", "name", "sdg"),
    ("optimizer", "momentum", 2.0),
  ],
)
def test_wrong_parts_are_refused_before_a_dataset_is_fetched(monkeypatch, section, field, value):
  monkeypatch.setattr(input_pipeline, "load", lambda config: pytest.fail("a dataset was fetched"))
  config = default.get_config()
  config[section][field] = value
  with pytest.raises(errors.UserError, match=f"{section}.{field}"):
    experiment.Experiment(experiment.resolve(config))


@pytest.mark.parametrize("field", ["augment", "eval_transform"])
def test_wrong_transforms_are_refused_before_a_dataset_is_fetched(monkeypatch, field):
  monkeypatch.setattr(input_pipeline, "load", lambda config: pytest.fail("a dataset was fetched"))
  config = default.get_config()
  config[field] = "flop()"
  with pytest.raises(errors.UserError, match=f"{field}.*flop"):
    experiment.Experiment(experiment.resolve(config))


@pytest.fixture
def accelerator(monkeypatch):
  """Pretend an accelerator; return a function that makes an experiment on a small dataset there."""
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  monkeypatch.setattr(input_pipeline, "load", lambda config: fake_dataset(train=400, test=160))

  def make(**fields):
    config = default.get_config()
    config.model.name, config.dtype = "airbench", "float32"
    config.model.widths = (2,)
    config.data.validation, config.batch_size, config.eval_batch_size = 80, 32, 16
    for name, value in fields.items():
      section = config
      *parents, leaf = name.split("__")
      for parent in parents:
        section = section[parent]
      section[leaf] = value
    return experiment.Experiment(experiment.resolve(config))

  return make


class Evaluation:
  """Stands in for CompiledSteps.evaluate; records the masks of the dispatches."""

  def evaluate(self, variables, shards, tta):
    self.masks = [np.asarray(shard.mask) for shard, _ in shards]


def masks(made, examples):
  evaluation = Evaluation()
  made.evaluate(evaluation, {}, examples)
  return evaluation.masks


def test_resident_evaluation_takes_the_smaller_split_in_one_dispatch_without_padding(accelerator):
  made = accelerator()
  (validation,) = masks(made, made.splits.validation)
  assert validation.sum() == validation.size == 80
  test = masks(made, made.splits.test)
  assert [mask.shape for mask in test] == [validation.shape] * 2  # so the same program
  assert np.sum(test) == 160


def test_streamed_evaluation_sends_one_batch_at_a_time(accelerator):
  made = accelerator(data__resident_bytes=0)
  validation = masks(made, made.splits.validation)
  assert [mask.size for mask in validation] == [16] * 5
  assert [mask.size for mask in masks(made, made.splits.test)] == [16] * 10


def test_a_batch_is_not_padded_beyond_the_larger_split(accelerator):
  made = accelerator(eval_batch_size=2**31 - 1)
  (test,) = masks(made, made.splits.test)
  assert test.sum() == test.size == 160


def test_one_program_trains_full_and_partial_epochs(accelerator):
  made = accelerator(num_epochs=2, last_epoch=0.5)
  assert (made.steps_per_epoch, made.total_steps) == (10, 15)
  compiled, programs = made.compile_steps(), []
  compiled._call = lambda name, *_: programs.append(name)
  for epoch, num_steps in enumerate((10, 5)):
    (count,) = compiled_steps.list_dispatches(num_steps, made.steps_per_dispatch)
    ((shard, resident),) = made.train_shards(epoch, [count])
    compiled.train(count, None, shard, resident)
  assert len(programs) == 2 and len(set(programs)) == 1


def test_whole_epochs_have_a_known_number_of_steps(accelerator):
  """A loop of unknown length waits for the device before each step."""
  compiled, programs = accelerator(num_epochs=2).compile_steps(), []
  compiled._call = lambda name, *_: programs.append(name)
  compiled.train(10, None, None, None)
  assert programs == [("train", 10)]


def test_a_network_without_blocks_to_compute_again_is_refused_at_once(accelerator):
  assert accelerator(remat=True).parameters == accelerator().parameters
  with pytest.raises(errors.UserError, match=r"^remat: the network has no blocks to recompute"):
    accelerator(remat=True, model__name="simple_cnn")


def test_what_helps_against_too_little_memory_is_what_is_left(accelerator):
  remedy = (
    "set remat=True (residual networks), or set microbatch=16, or take a smaller batch_size or"
  )
  assert accelerator()._memory_remedies["train"] == ("batch_size", f"{remedy} network")
  last = accelerator(remat=True, microbatch=8)._memory_remedies["train"][1]
  assert last == "take a smaller batch_size or network"  # eight devices have a row each


def test_a_network_larger_than_any_memory_is_refused_before_xla_sees_it(accelerator):
  with pytest.raises(errors.UserError, match=r"^model: the weights .* GiB of memory; take a small"):
    accelerator(model__name="simple_cnn", model__widths=(2**31 - 1,) * 2)  # XLA aborts the process
