"""A few hundred damaged files of each kind that benchmarks.fuzz damages by the thousand."""

import logging

import hypothesis
import pytest

from benchmarks.robustness import fuzz, fuzz_targets
from cifar_jax.runtime import console

NAMES = [
  *("image in a data set", "image to predict", "archive", "archive, damaged before gzip"),
  *("decoded cache", "run folder, to resume", "run folder, to report", "run folder, to load"),
  *("checkpoint", "pretrained weights", "sweep", "augmentation"),
]
SLOW = ("run folder, to report", "run folder, to load", "checkpoint")


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
  levels = console.log.level, logging.getLogger("absl").level
  yield {target.name: target for target in fuzz_targets.make(tmp_path_factory.mktemp("fuzz"))}
  console.log.setLevel(levels[0])
  logging.getLogger("absl").setLevel(levels[1])


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_read_or_refused_in_one_line(targets, name):
  target, counts = targets[name], {fuzz.READ: 0, fuzz.REFUSED: 0}

  @hypothesis.settings(
    max_examples=15 if name in SLOW else 60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(target.files)
  def read(given):
    counts[fuzz.try_one(target.read, given)] += 1

  read()
  assert set(targets) == set(NAMES)
  assert name in ("image in a data set",) or counts[fuzz.REFUSED]  # there it is left out instead


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pretrained weights"])
def test_sound_files_are_read(targets, name):
  """Else it would be no wonder that damaged ones are refused."""
  for sound in targets[name].sound:
    assert fuzz.try_one(targets[name].read, sound) == fuzz.READ
