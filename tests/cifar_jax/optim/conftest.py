"""Fixtures for the tests of optimizers and schedules."""

import pytest


@pytest.fixture(scope="session")
def keras_optimizers():
  """keras.optimizers, imported once a test needs it."""
  import keras

  return keras.optimizers
