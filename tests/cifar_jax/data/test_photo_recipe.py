"""Which photos are drawn, into which split they go, and which options are refused."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_photos import load, tree

from cifar_jax import errors
from cifar_jax.data import datasets, image_files, photo_recipe


def test_all_of_keras_interpolations_are_known():
  from keras.src.utils import image_utils

  assert set(image_utils.PIL_INTERPOLATION_METHODS) == set(photo_recipe.INTERPOLATIONS)


class FakeFiles:
  """Files without a disk: the content of a file is its number, and some files cannot be read."""

  def __init__(self, num_files: int, unreadable: set[int]):
    self.files = [
      image_files.File(f"{i:03d}.jpg", lambda i=i: self.read(i)) for i in range(num_files)
    ]
    self.unreadable = unreadable

  def read(self, i: int) -> int:
    if i in self.unreadable:
      raise OSError("broken")
    return i

  def split(self, most: int, seed: int, fraction: float) -> dict[str, list[int]]:
    self.reasons = {}
    drawn = [i for _, i in photo_recipe.draw(self.files, most, seed, read_all, self.reasons)]
    splits = [photo_recipe.assign_split(number, fraction) for number in range(len(drawn))]
    return {
      name: [i for i, split in zip(drawn, splits, strict=True) if split == name]
      for name in ("train", "test")
    }


def read_all(files):
  """Yield what each file holds, or the error."""
  for file in files:
    try:
      yield file.read()
    except OSError as error:
      yield error


@settings(max_examples=200, deadline=None)
@given(
  st.integers(0, 60),
  st.sets(st.integers(0, 59)),
  st.integers(1, 60),
  st.integers(0, 3),
  st.floats(0.01, 0.99),
)
def test_draw_and_assign_splits(num_files, unreadable, most, seed, fraction):
  fake = FakeFiles(num_files, unreadable)
  readable = set(range(num_files)) - unreadable
  splits = fake.split(most, seed, fraction)
  drawn = splits["train"] + splits["test"]
  assert len(set(drawn)) == len(drawn) == min(most, len(readable)) and readable.issuperset(drawn)
  assert abs(len(splits["test"]) - fraction * len(drawn)) <= 0.5 + 1e-9
  assert {int(name[:3]) for name in fake.reasons} <= unreadable
  # With more photos, those of the smaller number stay in their splits.
  more = fake.split(most + 7, seed, fraction)
  assert all(more[split][: len(splits[split])] == splits[split] for split in splits)
  everything = fake.split(sys.maxsize, seed, fraction)
  assert set(everything["train"] + everything["test"]) == readable
  assert {int(name[:3]) for name in fake.reasons} == unreadable & set(range(num_files))


def test_bad_options_are_refused(tmp_path):
  source = tree(tmp_path / "photos")
  for option, value, message in [
    ("size", 0, "must be a whole number >= 1, got 0"),
    ("size", 150.0, "must be a whole number >= 1, got 150.0"),
    ("size", True, "must be a whole number >= 1, got True"),
    ("size", (150, 150), "must be a whole number >= 1, got (150, 150)"),
    ("interpolation", "linear", "must be one of nearest, bilinear, bicubic, hamming, box, lanczos"),
    ("per_class", -1, "must be a whole number, or 0 for all, got -1"),
    ("test_fraction", 1.0, "must be between 0 and 1, got 1.0"),
    ("test_fraction", 0, "must be between 0 and 1, got 0"),
    ("test_fraction", float("nan"), "must be between 0 and 1, got nan"),
    ("seed", -1, "must be a whole number in [0, 2 ** 32), got -1"),
    ("seed", 2**32, "must be a whole number in"),
    ("crop", "middle", "must be one of none, center, got 'middle'"),
    ("decode_once", 1, "must be True or False, got 1"),
    ("sise", 9, "'image_folder' takes no such option; it takes: size, interpolation, per_class, t"),
    ("home", "x", "'image_folder' takes no such option"),
  ]:
    with pytest.raises(errors.UserError) as caught:
      load(tmp_path, source, **{option: value})
    assert str(caught.value).startswith(f"data.options.{option}: {message}")
  for call in (datasets.load, datasets.prepare):
    with pytest.raises(errors.UserError) as caught:
      call("digits", str(tmp_path), None, {"size": 64})
    assert str(caught.value) == "data.options.size: 'digits' takes no such option; it takes: none"
