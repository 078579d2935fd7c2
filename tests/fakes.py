"""Small datasets in memory, for tests of what works on any dataset."""

import ml_collections
import numpy as np

from cifar_jax.data import datasets
from configs import default


def fake_dataset(train: int = 230, test: int = 57, name: str = "fake") -> datasets.Dataset:
  rng = np.random.RandomState(0)

  def split(n: int) -> datasets.Split:
    images = rng.randint(0, 256, (n, 4, 4, 3)).astype(np.uint8)
    labels = rng.randint(0, 3, n).astype(np.int32)
    return datasets.Split(images, labels, np.arange(n, dtype=np.int32))

  names = ("a", "b", "c")
  return datasets.Dataset(name, split(train), split(test), names, "0" * 64, (0.5,) * 3, (0.25,) * 3)


def data_config(**fields) -> ml_collections.ConfigDict:
  data = default.get_config().data
  data.update(fields)
  return data
