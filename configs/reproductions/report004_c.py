"""Report 004, model c: a with batch norm before each ReLU, no biases, Adam 1e-2, batches of 64."""

import ml_collections

from configs.reproductions import report004_a

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report004_a.get_config()
  config.model.name = "two_block_cnn_bn"
  config.batch_size = 64
  config.optimizer.learning_rate = 1e-2
  return config
