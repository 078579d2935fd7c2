"""Real handwritten digits without a download: scikit-learn's 8×8 images, upscaled to 32×32×3.

1,797 images (Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998).
"""

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.data import cache

_SCALE = 4
_NUM_TEST_IMAGES = 360


def decode(home: epath.Path, work: epath.Path, source: epath.PathLike | None) -> cache.Decoded:
  """Decode the digits; a stratified fifth of them is the test split.

  Both splits keep scikit-learn's order. Because only integer arithmetic and pixel repetition are
  used, the bytes are the same on every machine.

  Raises:
    errors.UserError: a source is given.
  """
  del home, work
  if source is not None:
    raise errors.UserError("data.source: digits come with scikit-learn; leave this field unset")
  from sklearn import datasets as sklearn_datasets
  from sklearn import model_selection

  bunch = sklearn_datasets.load_digits()
  grey = (bunch.images.astype(np.int64) * 255 // 16).astype(np.uint8)  # 0…16 → 0…255
  images = grey.repeat(_SCALE, axis=1).repeat(_SCALE, axis=2)[..., None].repeat(3, axis=3)
  train, test = model_selection.train_test_split(
    np.arange(len(images)), test_size=_NUM_TEST_IMAGES, random_state=0, stratify=bunch.target
  )
  rows = {"train": np.sort(train), "test": np.sort(test)}
  return cache.Decoded(
    images={split: images[index] for split, index in rows.items()},
    labels={split: {"label": bunch.target[index]} for split, index in rows.items()},
    class_names={"label": tuple(str(digit) for digit in range(10))},
  )
