"""Train as main.py does, but with images whose last bit changes at random in every step.

--mode=verify starts this program, and measures rounding by how far its weights diverge. Every value
v of a normalised and augmented training image becomes v (1 ± e) with a random sign. e is the
distance from 1 to the next number of the computation's dtype: 2^-7 in bfloat16, 2^-23 in float32.
"""

import sys

import jax
import jax.numpy as jnp
from absl import app, flags
from flax import linen as nn
from ml_collections import config_flags

import train
from cifar_jax.runtime import console, shutdown, startup
from cifar_jax.training import steps
from cifar_jax.types import Batch, Metrics
from experiment import Experiment


class PerturbedExperiment(Experiment):
  """An experiment whose training images are perturbed."""

  def train_step(self, model: nn.Module) -> steps.TrainStep:
    step = super().train_step(model)
    epsilon = float(jnp.finfo(self.config.dtype).eps)

    def perturbed(state: steps.TrainState, batch: Batch) -> tuple[steps.TrainState, Metrics]:
      images = jnp.asarray(batch["image"], jnp.float32)
      signs = jax.random.rademacher(jax.random.key(state.step), images.shape, jnp.float32)
      return step(state, {**batch, "image": images * (1 + epsilon * signs)})

    return perturbed


def _main(_: list[str]) -> None:
  startup.size_thread_pool()
  startup.start_jax(None)
  values = flags.FLAGS
  train.train_and_evaluate(values.config, values.workdir, PerturbedExperiment, values.heartbeat)


if __name__ == "__main__":
  startup.restart_if_needed(sys.argv)
  console.show_log()
  shutdown.silence_libraries()
  config_flags.DEFINE_config_file("config")
  flags.DEFINE_string("workdir", None, "The run folder.")
  flags.DEFINE_float("heartbeat", 0.0, "Seconds between progress lines.")
  app.run(_main)
