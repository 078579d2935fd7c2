"""Report 002, model 2: model 1 with random shifts by a tenth and flips, 78.5 % validation."""

import ml_collections

from configs.reproductions import report002_model1

REPORTED = "78.5 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report002_model1.get_config()
  config.augment = "random_affine(shift=(0.1, 0.1), flip=True)"
  return config
