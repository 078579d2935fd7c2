"""Report 003, CIFAR-10: the ELU ResNet-20, about 80 % test in the report.

Three blocks in each of three stages of the printed code's widths, 64-128-256 (4,347,722
parameters). The text has crops and flips from the first ResNet on, but brings in dropout and
ReduceLROnPlateau with ResNet-18, after this one: here is neither. All else is as in
report003_cifar10, the printed penalties included, of which the text does not speak.
"""

import ml_collections

from configs.reproductions import report003_cifar10

REPORTED = "about 80 % test"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar10.get_config()
  config.model.name = "elu_resnet20"
  config.model.block_dropout = 0.0
  config.model.head_dropout = 0.0
  config.plateau.monitor = ""
  return config
