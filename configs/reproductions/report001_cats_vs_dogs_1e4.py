"""Report 001, task 1: the grid's point with widths of 32 and Adam 1e-4 (see …_cats_vs_dogs_64)."""

import ml_collections

from configs.reproductions import report001_cats_vs_dogs

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report001_cats_vs_dogs.get_config()
  config.optimizer.learning_rate = 1e-4
  return config
