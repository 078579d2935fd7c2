"""How long does a checkpoint pause training?

  python -m benchmarks.speed.checkpoint_pause --model=resnet18

trains a few epochs of a few steps, and saves after each. 'pause s' is the median over the epochs of
the seconds that the training loop spends in calls that save, while no step runs; 'longest s' is the
longest. The first epoch does not count, because it compiles. Every epoch counts as the best so far
(the config selects the last one), so that both `best` and `latest` are written.
"""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import ml_collections

import train
from benchmarks import records
from cifar_jax.runs.checkpoints import Checkpoints
from configs import default

_BATCH = 128


def main() -> None:
  parser = records.bare_parser(__doc__, "checkpoint_pause")
  parser.add_argument("--model", default="resnet18")
  parser.add_argument("--epochs", type=int, default=8)
  parser.add_argument("--steps", type=int, default=4, help="training steps in an epoch")
  parser.add_argument("--data_dir", help="real CIFAR-10; without it the images are random")
  options = records.parse(parser)
  columns = ["model", "epochs", "steps", "pause s", "longest s"]
  record = records.Record("checkpoint_pause", options, columns)
  with records.images(options.data_dir) as data, tempfile.TemporaryDirectory() as workdir:
    seconds = pauses(_config(options.model, options.epochs, options.steps, data), workdir)
  row = {"model": options.model, "epochs": options.epochs, "steps": options.steps}
  row |= {"pause s": statistics.median(seconds[1:]), "longest s": max(seconds[1:])}
  record.add(row, seconds=seconds)


def pauses(config: ml_collections.ConfigDict, workdir: str) -> list[float]:
  """Train; return the seconds that the training loop spends saving after each epoch."""
  seconds: list[float] = []
  steps: list[int] = []  # of the saves

  def timed(save: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(save)
    def call(store: Checkpoints, step: int, tree: Any, *arguments: Any) -> Any:
      jax.block_until_ready(tree)
      start = time.monotonic()
      save(store, step, tree, *arguments)
      if not steps or steps[-1] != step:
        steps.append(step)
        seconds.append(0.0)
      seconds[-1] += time.monotonic() - start

    return call

  names = [name for name in vars(Checkpoints) if name.startswith("save")]
  patches: dict[str, Any] = {name: timed(getattr(Checkpoints, name)) for name in names}
  with mock.patch.multiple(Checkpoints, **patches):
    train.train_and_evaluate(config, workdir)
  return seconds


def _config(model: str, epochs: int, steps: int, data: str) -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = model
  config.num_epochs, config.batch_size = epochs, _BATCH
  config.select.monitor = ""  # the last epoch is the best
  config.data.dir = data
  config.data.train_examples = steps * _BATCH
  config.data.validation = _BATCH
  return config


if __name__ == "__main__":
  main()
