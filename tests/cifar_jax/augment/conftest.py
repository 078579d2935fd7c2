"""Fixtures for the tests of augmentation."""

import jax
import pytest


@pytest.fixture(scope="session")
def keras():
  """Keras, imported once a test needs it."""
  import keras

  return keras


@pytest.fixture
def uniform_beta(monkeypatch):
  """Replace Beta(alpha, alpha) by Beta(1, 1), because Beta takes seconds to compile."""
  monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jax.random.uniform(key))
