r"""Report 003, CIFAR-10: the ELU ResNet-20, about 80 % test.

  python main.py --config=configs/reproductions/report003_resnet20.py \
    --workdir=runs/report003_resnet20

Reported: "about 80%" test accuracy. Ours: not run.

The network has three blocks in each of three stages, with the widths of the printed code,
64-128-256 (4,347,722 parameters). The text mentions crops and flips for the first ResNets, but
introduces dropout and ReduceLROnPlateau later, with ResNet-18, so this config has neither.
Everything else is as in report003_cifar10, including the printed penalties, which the text does not
mention.
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
