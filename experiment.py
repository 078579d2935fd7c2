"""What a config describes, built: data, splits, model, schedule, optimiser, programs.

Training starts from here, and so does everything that works on a trained network.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import input_pipeline
import models
from cifar_jax import errors
from cifar_jax.config import check_config
from cifar_jax.optim import optimizers, schedules
from cifar_jax.training import compiled_steps, hard_examples, steps
from cifar_jax.types import Variables
from configs import default
from models import transfer

PyTree = Any


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Fills in what depends on the machine ('auto'), after checking every field."""
  check_config(config, default.get_config())
  config = config.copy_and_resolve_references()
  if config.dtype == "auto":
    config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  for name, size in (("batch_size", config.batch_size), ("proxy.keep", config.proxy.keep)):
    if size % jax.device_count():
      raise errors.UserError(
        f"{name}: {size} does not divide over {jax.device_count()} devices; "
        f"take a multiple of {jax.device_count()}"
      )
  return config


class Experiment:
  """The parts of a run that do not change while it trains.

  Args:
    config: as `resolve` returns it.
    schedule: learning rate by step, to take instead of the one that `config.schedule` names.

  Attributes:
    config: as given.
    dataset: that `config.data` names.
    splits: example numbers of each split.
    stages: training examples of each stage of the run, as input_pipeline.training_stages has them.
    steps_per_epoch, total_steps: training steps in an epoch and in the run.
    seeds: the seeds trained together.
    model, schedule, tx: as models, schedules and optimizers create them.
    proxy, proxy_tx: the proxy network and its optimiser, None unless `config.proxy.keep`.
    parameters: numbers of trainable parameters and of batch statistics.

  Raises:
    UserError: a field, a file or the data stand in the way.
  """

  def __init__(self, config: ml_collections.ConfigDict, schedule: schedules.Schedule | None = None):
    self.config = config
    self.dataset = input_pipeline.load(config)
    self.splits = input_pipeline.make_splits(self.dataset, config.data)
    self.stages = input_pipeline.training_stages(self.dataset, self.splits, config.data)
    self.steps_per_epoch = len(self.stages[0]) // config.batch_size
    if not self.steps_per_epoch:
      raise errors.UserError(
        f"batch_size: {config.batch_size} is more than the {len(self.stages[0])} training examples"
      )
    # Rounded first, since 1.1 epochs of 10 steps are 11.000000000000002.
    epochs = config.num_epochs - 1 + config.last_epoch
    self.total_steps = math.ceil(round(epochs * self.steps_per_epoch, 6))
    self.seeds = list(range(config.seed, config.seed + config.num_seeds))
    self.model = models.create(
      config.model,
      len(self.dataset.class_names),
      dtype=jnp.dtype(config.dtype),
      axis_name=compiled_steps.AXIS,
    )
    self.schedule = schedule or schedules.create(
      config.schedule,
      config.optimizer.learning_rate,
      self.steps_per_epoch,
      self.total_steps,
    )
    self.tx = optimizers.create(config.optimizer, self.schedule, self.steps_per_epoch)
    self.proxy = self.proxy_tx = None
    if config.proxy.keep:
      self.proxy = hard_examples.create(
        config, len(self.dataset.class_names), jnp.dtype(config.dtype), compiled_steps.AXIS
      )
      self.proxy_tx = hard_examples.optimizer(config, self.schedule, self.steps_per_epoch)
    one_seed = jax.eval_shape(self._init, jnp.int32(0), self._init_images(), None).variables()
    self.parameters = models.count_parameters(one_seed)
    # Patterns that match no parameter are told of now.
    jax.eval_shape(lambda: optimizers.l2_penalty(one_seed["params"], config.loss.l2))

  def over_seeds(self, function: Callable, in_axes: Any = 0) -> Callable:
    """`function` mapped over a leading axis of seeds, if there are several."""
    return jax.vmap(function, in_axes) if len(self.seeds) > 1 else function

  def seed_array(self) -> jax.Array:
    """The seeds as [] or, if there are several, [seeds] int32."""
    return jnp.array(self.seeds if len(self.seeds) > 1 else self.seeds[0], jnp.int32)

  def init(self, weights: Variables | None = None) -> steps.TrainState:
    """The state before the first step, starting from `weights` where those say so."""
    # It runs once, so that on CPU a program that is made sooner is worth more than a quick one:
    # ResNet-18's is compiled in 1.6 s instead of 4.4 s, for the same bits.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
    init = jax.jit(self.over_seeds(self._init, (0, None, None)), compiler_options=options)
    return init(self.seed_array(), self._init_images(), weights)

  def train_step(self, model: Any) -> Callable[[steps.TrainState, dict], tuple]:
    """What training compiles for one step of `model`, as steps.make_train_step returns it.

    With a proxy it is told of the whole batch, and its metrics are those of the examples kept.
    """
    step = steps.make_train_step(self.config, model, self.tx, compiled_steps.AXIS, self.total_steps)
    if self.proxy is None:
      return step
    choose = hard_examples.make_choose(self.config, self.proxy, self.proxy_tx, compiled_steps.AXIS)
    return lambda state, batch: step(*choose(state, batch))

  def compile_steps(self, state: steps.TrainState) -> compiled_steps.Programs:
    """Compiled training and evaluation, for states like `state`.

    If the network begins with a base that stays as it is and the images are not augmented, what
    the base makes of them is computed now, once, and takes the images' place.
    """
    config, model, dataset = self.config, self.model, self.dataset
    preprocess = input_pipeline.make_preprocess(config, dataset, self.steps_per_epoch)
    model, dataset = transfer.precompute_fixed_base(
      config, model, dataset, state.variables(), preprocess[1]
    )
    source = input_pipeline.make_source(dataset, config.data, compiled_steps.replicate)
    streamed = isinstance(source, input_pipeline.StreamedSource)
    if streamed and len(self.seeds) > 1:
      raise errors.UserError(
        "num_seeds: several seeds need the data set on the device; raise data.resident_bytes"
      )
    on_cpu = jax.default_backend() == "cpu"
    largest = max(len(self.splits.validation), len(self.splits.test))
    return compiled_steps.Programs(
      config,
      self.train_step(model),
      steps.make_eval_step(model, compiled_steps.AXIS),
      preprocess,
      source,
      self.steps_per_epoch,
      evaluation_batches=1 if on_cpu else -(-largest // config.eval_batch_size),
      steps_at_once=config.steps_per_dispatch
      or (1 if on_cpu or streamed else self.steps_per_epoch),
    )

  def order(self, epoch: int) -> jax.Array:
    """The training examples in the order of an epoch (from 0): [n], with several seeds [seeds, n].

    The stages divide the run's epochs among themselves.
    """
    keys = self.over_seeds(jax.random.key)(self.seed_array())
    stage = self.stages[epoch * len(self.stages) // self.config.num_epochs]
    return self.over_seeds(input_pipeline.epoch_order, (0, None, None))(keys, epoch, stage)

  def describe_data(self) -> dict[str, Any]:
    """What the run folder tells of the data."""
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

  def _init_images(self) -> np.ndarray:
    """The images [n, h, w, c] uint8 that the model is initialised with: the first to train on."""
    count = max(getattr(model, "INIT_IMAGES", 1) for model in (self.model, self.proxy))
    examples = self.splits.train[:count]
    return np.asarray(self.dataset.train.images[examples])

  def _init(
    self, seed: jax.Array, images: jax.Array, weights: Variables | None
  ) -> steps.TrainState:
    # Compiled, the network's pass over these images is left out, for only variables are asked for.
    _, normalize = input_pipeline.make_preprocess(self.config, self.dataset, self.steps_per_epoch)
    images = normalize(images)
    state = steps.init_state(self.config, self.model, self.tx, seed, images, weights)
    if self.proxy is not None:
      own = hard_examples.init(self.config, self.proxy, self.proxy_tx, seed, images)
      state = state.replace(proxy=own)
    return state
