"""What a config describes, built: dataset, splits, model, schedule, optimizer, compiled steps.

Training starts here, and so does everything that works on a trained network.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

import input_pipeline
import models
from cifar_jax import errors
from cifar_jax.augment import chain, evaluation
from cifar_jax.config import check_config
from cifar_jax.data import sources, splits
from cifar_jax.kernels import convolution
from cifar_jax.optim import optimizers, schedules
from cifar_jax.runs import results
from cifar_jax.runtime import device_memory
from cifar_jax.training import compiled_steps, gradients, hard_examples, steps
from cifar_jax.training.compiled_steps import CompiledSteps
from cifar_jax.types import ResidentData, TrainShard, Variables
from configs import default
from models import transfer


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Check every field, and return a copy with the fields that depend on the machine ('auto') set.

  Raises:
    UserError: a field is unknown or impossible, or a batch does not divide over the devices.
  """
  check_config(config, default.get_config())
  config = config.copy_and_resolve_references()
  if config.dtype == "auto":
    config.dtype = "bfloat16" if _has_bfloat16_units() else "float32"
  sizes = (config.batch_size, config.proxy.keep, config.microbatch)
  for name, size in zip(("batch_size", "proxy.keep", "microbatch"), sizes, strict=True):
    if size % jax.device_count():
      raise errors.UserError(
        f"{name}: {size} does not divide over {jax.device_count()} devices; "
        f"take a multiple of {jax.device_count()}"
      )
  return config


def _has_bfloat16_units() -> bool:
  """Return whether the devices compute in bfloat16 faster than in float32."""
  if jax.default_backend() == "cpu":
    return convolution.instruction_set(jnp.dtype(jnp.bfloat16)) is not None
  # NVIDIA's are '7.5' for Turing and '8.0' for Ampere, the first with such units; AMD's are names.
  capabilities = [getattr(device, "compute_capability", None) for device in jax.devices()]
  majors = [str(capability).partition(".")[0] for capability in capabilities]
  return all(int(major) >= 8 for major in majors if major.isdigit())


def _check_parts(config: ml_collections.ConfigDict) -> None:
  """Raise UserError for a wrong name or argument now, before a dataset is downloaded."""
  models.create(config.model, num_classes=1)
  optimizers.create(config.optimizer, optax.constant_schedule(0.0))
  chain.parse(config.augment)
  evaluation.parse(config.eval_transform)


class Experiment:
  """The parts of a run that training does not change.

  Args:
    config: as `resolve` returns it.
    schedule: learning rate by step, to use instead of the one that `config.schedule` names.

  Attributes:
    config: as given.
    dataset: the dataset that `config.data` names.
    inputs: what batches are gathered from: `dataset`, or its features (`precompute_base`).
    splits: example numbers of each split.
    stages: training examples of each stage of the run (splits.training_stages).
    steps_per_epoch, total_steps: training steps in an epoch and in the run.
    seeds: the seeds trained together.
    model: the network; `network` is the part of it that trains on `inputs`.
    schedule, tx: the learning rate by step and the optimizer.
    proxy, proxy_tx: the proxy network and its optimizer, None unless `config.proxy.keep`.
    preprocess: normalisation, augmentation and evaluation transform.
    parameters: numbers of trainable parameters and of batch statistics.

  Raises:
    UserError: the config, a file or the dataset is invalid or unavailable.
  """

  def __init__(self, config: ml_collections.ConfigDict, schedule: schedules.Schedule | None = None):
    self.config = config
    _check_parts(config)
    self.dataset = self.inputs = input_pipeline.load(config)
    self.splits = splits.make_splits(self.dataset, config.data)
    if config.num_seeds > 1 and not sources.is_resident(self.dataset, config.data):
      raise errors.UserError(
        "num_seeds: several seeds need the dataset on the device; raise data.resident_bytes"
      )
    self.stages = splits.training_stages(self.dataset, self.splits, config.data)
    if config.num_epochs < len(self.stages):
      raise errors.UserError(
        f"num_epochs: {config.num_epochs} leaves out some of the {len(self.stages)} files of "
        "data.file_by_file; take at least one epoch for each"
      )
    self.steps_per_epoch = len(self.stages[0]) // config.batch_size
    if not self.steps_per_epoch:
      raise errors.UserError(
        f"batch_size: {config.batch_size} is more than the {len(self.stages[0])} training examples"
      )
    self.total_steps = schedules.count_steps(config, self.steps_per_epoch)
    if self.total_steps > np.iinfo(np.int32).max:
      raise errors.UserError(
        f"num_epochs: {config.num_epochs} epochs of {self.steps_per_epoch} steps are more than "
        f"{np.iinfo(np.int32).max} steps; take fewer"
      )
    self.seeds = list(range(config.seed, config.seed + config.num_seeds))
    self.model = self.network = self._create_model(config.model)
    self.schedule = schedule or schedules.create(
      config.schedule, config.optimizer.learning_rate, self.steps_per_epoch, self.total_steps
    )
    self.tx = optimizers.create(config.optimizer, self.schedule, self.steps_per_epoch)
    self.proxy: nn.Module | None = None
    self.proxy_tx: optax.GradientTransformationExtraArgs | None = None
    if config.proxy.keep:
      self.proxy = self._create_proxy()
      self.proxy_tx = hard_examples.make_optimizer(config, self.schedule, self.steps_per_epoch)
    self.preprocess = input_pipeline.make_preprocess(config, self.dataset, self.steps_per_epoch)
    # Fail now if there is nothing to compute again.
    with gradients.recompute_blocks() if config.remat else contextlib.nullcontext():
      state = jax.eval_shape(self._init, jnp.int32(0), self._init_images(), None)
    num_bytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    device_memory.check_state(num_bytes * config.num_seeds, "model", "take a smaller network")
    one_seed = state.variables()
    self.parameters = models.count_parameters(one_seed)
    # Fail now if a pattern matches no parameter.
    jax.eval_shape(lambda: optimizers.l2_penalty(one_seed["params"], config.loss.l2))

  def over_seeds(self, function: Callable, in_axes: Any = 0) -> Callable:
    """Return `function` mapped over a leading axis of seeds, if there are several."""
    return jax.vmap(function, in_axes) if len(self.seeds) > 1 else function

  def seed_array(self) -> jax.Array:
    """Return the seeds as [] or, if there are several, [seeds] int32."""
    return jnp.array(self.seeds if len(self.seeds) > 1 else self.seeds[0], jnp.int32)

  def init(self, weights: Variables | None = None) -> steps.TrainState:
    """Return the state before the first step; `weights` replace initial ones where they fit."""
    # This program runs once, so on CPU compile time matters more than speed: ResNet-18's compiles
    # in 1.6 s instead of 4.4 s, with the same bits.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    init = jax.jit(self.over_seeds(self._init, (0, None, None)), compiler_options=options)
    return init(self.seed_array(), self._init_images(), weights)

  def train_step(self, model: nn.Module) -> steps.TrainStep:
    """Return the function for one training step of `model`, on one device.

    With a proxy, the step takes the whole batch, and its metrics cover the examples that are kept.
    """
    step = steps.make_train_step(self.config, model, self.tx, compiled_steps.AXIS, self.total_steps)
    if self.proxy is None or self.proxy_tx is None:
      return step
    choose = hard_examples.make_choose(self.config, self.proxy, self.proxy_tx, compiled_steps.AXIS)
    return lambda state, batch: step(*choose(state, batch))

  def precompute_base(self, state: steps.TrainState) -> Self:
    """Return this experiment with the images replaced by the features of a frozen base.

    If the base of the network is frozen and the images are not augmented, the features are computed
    once, now, and only the rest of the network trains. Otherwise return an equal experiment.
    """
    network, inputs = transfer.precompute_fixed_base(
      self.config, self.model, self.dataset, state.variables(), self.preprocess.normalize
    )
    experiment = copy.copy(self)
    experiment.network, experiment.inputs = network, inputs
    return experiment

  def compile_steps(self) -> CompiledSteps:
    """Return training and evaluation steps, to be compiled by their first calls."""
    config = self.config
    return CompiledSteps(
      self.train_step(self.network),
      steps.make_eval_step(self.network, compiled_steps.AXIS),
      input_pipeline.make_train_batch(
        self.preprocess, config.batch_size, self.steps_per_epoch, compiled_steps.AXIS
      ),
      input_pipeline.make_eval_batch(self.preprocess),
      config.num_seeds,
      self.steps_per_epoch,
      self._has_varying_counts,
      self._memory_remedies,
    )

  @functools.cached_property
  def source(self) -> sources.Source:
    """The source of batches, created on first use."""
    return sources.make_source(self.inputs, self.config.data, compiled_steps.replicate)

  @property
  def steps_per_dispatch(self) -> int:
    """How many training steps one dispatch should take."""
    if self.config.steps_per_dispatch:
      return self.config.steps_per_dispatch
    return 1 if self._is_single else self.steps_per_epoch

  @property
  def _has_varying_counts(self) -> bool:
    """Whether dispatches of resident data differ in their numbers of steps."""
    last = self.total_steps % self.steps_per_epoch
    counts = {
      count
      for num_steps in (self.steps_per_epoch, last or self.steps_per_epoch)
      for count in compiled_steps.list_dispatches(num_steps, self.steps_per_dispatch)
    }
    return len(counts) > 1 and isinstance(self.source, sources.ResidentSource)

  @property
  def _memory_remedies(self) -> dict[str, tuple[str, str]]:
    """What to do if a program needs too much memory: a field and a remedy for each."""
    config = self.config
    remedies = []
    if not config.remat and jax.default_backend() != "cpu":  # see gradients.py
      remedies.append("set remat=True (residual networks)")
    size = config.microbatch or config.proxy.keep or config.batch_size
    if size % (2 * jax.device_count()) == 0:
      remedies.append(f"set microbatch={size // 2}")
    remedies.append("take a smaller batch_size or network")
    return {
      "train": ("batch_size", ", or ".join(remedies)),
      "evaluate": ("eval_batch_size", "take a smaller one; results change by rounding at most"),
    }

  @property
  def _is_single(self) -> bool:
    """Whether a dispatch takes one batch: on CPU (loops may be slow), and if data is streamed."""
    # Without the CPU kernels XLA:CPU computes the convolutions, in a loop about 100 times slower.
    return jax.default_backend() == "cpu" or isinstance(self.source, sources.StreamedSource)

  def train_shards(
    self, epoch: int, dispatches: Sequence[int], first_step: int = 0
  ) -> Iterator[tuple[TrainShard, ResidentData]]:
    """Yield the training data of each dispatch of an epoch (counted from 0).

    Args:
      dispatches: the number of steps of each dispatch.
      first_step: the first step to take, counted from the start of the epoch.
    """
    return self.source.train(self.order(epoch), self.config.batch_size, first_step, dispatches)

  def evaluate(
    self, compiled: CompiledSteps, variables: Variables, examples: np.ndarray, tta: str = ""
  ) -> dict[str, np.ndarray]:
    """Return mean 'loss', 'accuracy' and 'top5' over `examples`, each counted once.

    Args:
      examples: their numbers.
      tta: a kind of test-time augmentation, '' for none.

    Returns:
      float64 scalars, or [seeds] with several seeds.
    """
    sizes = [len(split) for split in (self.splits.validation, self.splits.test) if len(split)]
    batch_size = min(self.config.eval_batch_size, max(sizes))
    # All splits use one program. It takes the smaller split at once, so that little is padding.
    num_batches = 1 if self._is_single else -(-min(sizes) // batch_size)
    shards = self.source.evaluate(examples, batch_size, num_batches)
    return compiled.evaluate(variables, shards, tta)

  def order(self, epoch: int) -> jax.Array:
    """Return the training examples in the order of an epoch (from 0): [n], or [seeds, n]."""
    keys, stage = self.over_seeds(jax.random.key)(self.seed_array()), self._stage(epoch)
    return self.over_seeds(input_pipeline.epoch_order, (0, None, None))(keys, epoch, stage)

  def file(self, epoch: int) -> int | None:
    """Return the number, from 1, of the official file that an epoch (from 0) trains on.

    None if epochs train on all files.
    """
    if not self.config.data.file_by_file:
      return None
    return splits.official_file(self.dataset, self._stage(epoch)[0])

  def _stage(self, epoch: int) -> np.ndarray:
    """Return the training examples of an epoch; each stage has an equal share of the epochs."""
    return self.stages[epoch * len(self.stages) // self.config.num_epochs]

  def describe_data(self) -> dict[str, Any]:
    """Return the content of dataset.json."""
    dataset = self.dataset
    return {
      "name": dataset.name,
      "requested": self.config.data.name,
      "fingerprint": dataset.fingerprint,
      "train_examples": len(self.splits.train),
      "validation_examples": len(self.splits.validation),
      "test_examples": len(self.splits.test),
      "image_shape": list(dataset.train.images.shape[1:]),
      "class_names": list(dataset.class_names),
      "mean": list(map(float, dataset.mean)),
      "std": list(map(float, dataset.std)),
    }

  def summary(self) -> results.RunSummary:
    """Return the description of the experiment in results.json."""
    return results.RunSummary(self.config, self.seeds, self.parameters, self.describe_data())

  def _create_model(self, section: ml_collections.ConfigDict) -> nn.Module:
    return models.create(
      section,
      len(self.dataset.class_names),
      dtype=jnp.dtype(self.config.dtype),
      axis_name=compiled_steps.AXIS,
    )

  def _create_proxy(self) -> nn.Module:
    """Return the network that `proxy.model` describes, with the model's choice of `sync_bn`."""
    section = dict(self.config.proxy.model) | {"sync_bn": self.config.model.sync_bn}
    try:
      return self._create_model(section)
    except errors.UserError as error:
      raise errors.UserError(f"proxy.{error}") from None

  def _init_images(self) -> np.ndarray:
    """Return the images [n, h, w, c] uint8 to initialise with: the first training images."""
    count = max(getattr(model, "INIT_IMAGES", 1) for model in (self.model, self.proxy))
    return np.asarray(self.dataset.train.images[self.splits.train[:count]])

  def _init(
    self, seed: jax.Array, images: jax.Array, weights: Variables | None
  ) -> steps.TrainState:
    # Only the variables are returned, so the compiled program omits the network's forward pass.
    images = self.preprocess.normalize(images)
    insert = None
    if weights is not None:
      insert = functools.partial(transfer.insert, weights=weights)
    state = steps.init_state(self.config, self.model, self.tx, seed, images, insert)
    if self.proxy is not None and self.proxy_tx is not None:
      proxy_state = hard_examples.init_proxy(self.config, self.proxy, self.proxy_tx, seed, images)
      state = state.replace(proxy=proxy_state)
    return state
