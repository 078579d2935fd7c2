r"""Report 003, CIFAR-100: the ELU ResNet-110, 35 % or 50 % validation.

  python main.py --config=configs/reproductions/report003_cifar100_resnet110.py \
    --workdir=runs/report003_cifar100_resnet110

Reported: "The former 2 models [ResNet-110 and ResNet-50] yielded horrible convergence (35% or 50%
convergence for validation set after 30 or 60 epochs out of 200 epochs)". The report does not say
which figure belongs to which model. Ours: not run.

The recipe is that of report003_cifar100, which the code prints. The report does not say whether
these two models had its dropout.

The network has 18 blocks in each of three stages, without bottlenecks: the code counts 2 × sum + 2
layers, which gives 110. A comment in the code enables bottlenecks for CIFAR-100, but as printed
they are off and cannot run.
"""

import ml_collections

from configs.reproductions import report003_cifar100

REPORTED = "35 % or 50 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar100.get_config()
  config.model.name = "elu_resnet110"
  return config
