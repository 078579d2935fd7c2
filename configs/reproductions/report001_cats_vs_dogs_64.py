"""Report 001, task 1: the grid's point with widths of 64 and Adam 1e-3.

The report plots its four points without figures and says that they "performed similarly over 10
epochs"; report001_cats_vs_dogs is the best of them, by a little.
"""

import ml_collections

from configs.reproductions import report001_cats_vs_dogs

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report001_cats_vs_dogs.get_config()
  config.model.widths = (64, 64, 64)
  return config
