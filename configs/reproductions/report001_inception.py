"""Report 001, task 2: the basic CNN with an inception block after its second pooling, 64 %."""

import ml_collections

from configs.reproductions import report001_basic_cnn

REPORTED = "64.0 % test, 64.6 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report001_basic_cnn.get_config()
  config.model.name = "inception_cnn"
  return config
