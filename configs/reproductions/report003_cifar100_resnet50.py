r"""Report 003, CIFAR-100: the ELU ResNet-50, 35 % or 50 % validation.

  python main.py --config=configs/reproductions/report003_cifar100_resnet50.py \
    --workdir=runs/report003_cifar100_resnet50

report003_cifar100_resnet110 quotes the figures, and report003_resnet50 explains the bottlenecks and
their penalty. Ours: not run.
"""

import ml_collections

from configs.reproductions import report003_cifar100, report003_resnet50

REPORTED = "35 % or 50 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar100.get_config()
  config.model.name = "elu_resnet50"
  config.loss.l2 = report003_resnet50.get_config().loss.l2
  return config
