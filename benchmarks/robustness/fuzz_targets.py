"""All targets of fuzz.py: the files that it damages, and the functions that read them."""

import logging
import pathlib

from etils import epath
from hypothesis import strategies as st

from benchmarks.robustness import fuzz_configs, fuzz_data, fuzz_runs
from benchmarks.robustness.fuzz_damage import Target, damaged
from cifar_jax.augment import chain
from cifar_jax.runtime.console import log
from configs import default
from tuning import parsing, trials


def make(folder: pathlib.Path) -> list[Target]:
  """Return all targets, which write below `folder`; silence the log."""
  log.setLevel(logging.CRITICAL)  # readers log the files that they leave out
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  return [
    *fuzz_data.image_targets(folder / "images"),
    *fuzz_data.archive_targets(folder / "archives"),
    fuzz_data.cache_target(folder / "decoded"),
    fuzz_data.test_set_target(folder / "test_sets"),
    *fuzz_runs.run_targets(folder / "run"),
    fuzz_runs.checkpoint_target(folder / "checkpoints"),
    fuzz_runs.weights_target(folder / "weights"),
    *_text_targets(folder),
    *fuzz_configs.config_targets(folder / "configs"),
    fuzz_configs.mode_target(folder / "configs" / "modes", folder / "run"),
  ]


def _text_targets(folder: pathlib.Path) -> list[Target]:
  """Return the targets for texts of the command line: --sweep and config.augment."""
  sweeps = [
    "optimizer.learning_rate=0.1,0.01 seed=0,1",
    "model.name=resnet18,'lenet2' data.validation=0.1,0.2 at_once=2 rank_by=val_loss",
    "sampler=tpe count=9 data.split_seed=integers(2,9) pruner=halving reduction=2 first_rung=3",
    "sampler=random count=3 optimizer.learning_rate=log_uniform(1e-4,0.1) seed=integers(0,9)",
    "loss.l2=(('kernel$', 1e-4),),() model.widths=(16,16),(32,32)",
  ]
  chains = [
    "random_crop(padding=4) | random_flip() | cutout(size=8)",
    "random_rotation(factor=0.1) | mixup(alpha=1.0)",
    "random_affine(rotation=0.1, zoom=0.2)",
  ]

  def damaged_texts(examples: list[str]) -> st.SearchStrategy[str]:
    words = st.lists(st.sampled_from([*"()[]{}'\",=|.-+*0179e \\\n", *examples]), max_size=12)
    encoded = damaged([example.encode() for example in examples])
    return words.map("".join) | encoded.map(lambda content: content.decode("utf-8", "replace"))

  def read_sweep(text: str) -> None:
    if ".py" not in text:  # a file would be executed
      trials.expand(parsing.parse(text), default.get_config(), epath.Path(folder / "s"))

  return [
    Target("sweep", damaged_texts(sweeps), sweeps, read_sweep),
    Target("augmentation", damaged_texts(chains), chains, chain.parse),
  ]
