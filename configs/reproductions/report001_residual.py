"""Report 001, task 2: the basic CNN with two residual connections, 59 % in the report."""

import ml_collections

from configs.reproductions import report001_basic_cnn

REPORTED = "59.2 % test, 58.3 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report001_basic_cnn.get_config()
  config.model.name = "residual_cnn"
  return config
