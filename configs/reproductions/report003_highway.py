"""Report 003, CIFAR-10: highway blocks, which the report wished to try and did not.

The network and recipe of report003_cifar10 with a gate in every identity block (see
models/elu_resnet.py); the gates' kernels are penalised as the blocks' are.
"""

import ml_collections

from configs.reproductions import report003_cifar10

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar10.get_config()
  config.model.block = "highway"
  return config
