"""A few damaged files of each kind; benchmarks.robustness.fuzz damages thousands."""

import logging

import hypothesis
import pytest

import main
from benchmarks.robustness import fuzz, fuzz_fields, fuzz_targets
from cifar_jax.runtime import console

NAMES = [
  *("image in a data set", "image to predict", "archive", "archive, damaged before gzip"),
  *("decoded cache", "test set", "run folder, to resume", "run folder, to report"),
  *("run folder, to load", "run folder, to compare"),
  *("checkpoint", "pretrained weights", "sweep", "augmentation"),
  *("config, to check", "config, to train", "flags"),
]
# Orbax leaves reads of a damaged checkpoint behind, which end after their event loop.
pytestmark = pytest.mark.filterwarnings(
  r"ignore:(.|\n)*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
)
SLOW = {  # number of inputs
  **dict.fromkeys((*NAMES[7:10], "checkpoint"), 15),
  **dict.fromkeys(("config, to train", "flags"), 8),
}


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
  levels = console.log.level, logging.getLogger("absl").level
  yield {target.name: target for target in fuzz_targets.make(tmp_path_factory.mktemp("fuzz"))}
  console.log.setLevel(levels[0])
  logging.getLogger("absl").setLevel(levels[1])


def test_names_are_those_of_all_targets(targets):
  assert list(targets) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_read_or_refused_in_one_line(targets, name):
  target, counts = targets[name], {fuzz.READ: 0, fuzz.REFUSED: 0}

  @hypothesis.settings(
    max_examples=SLOW.get(name, 60),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(target.files)
  def read(file):
    counts[fuzz.try_one(target.read, file)] += 1

  read()
  # A dataset leaves out damaged images instead of refusing them.
  assert counts[fuzz.REFUSED] or (name == "image in a data set" and counts[fuzz.READ])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pretrained weights"])
def test_intact_files_are_read(targets, name):
  """Otherwise the errors for damaged files would prove nothing."""
  assert targets[name].intact
  for file in targets[name].intact:
    assert fuzz.try_one(targets[name].read, file) == fuzz.READ


def test_every_flag_of_a_mode_has_a_value():
  assert fuzz_fields.OPTIONS.keys() == main._OPTIONS.keys()


def test_fuzz_counts_what_breaks_a_reader(targets):
  def fail(_):
    raise ValueError("broken")

  row, smallest = fuzz.fuzz(targets["augmentation"]._replace(read=fail), 100, seed=0)
  assert (row["read"], row["refused"], row["broken"]) == (0, 0, row["files"])
  assert list(smallest) == ["ValueError: broken"]
