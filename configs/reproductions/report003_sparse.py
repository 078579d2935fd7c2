"""Report 003, CIFAR-10: residual blocks with the gate of ε-ResNet.

  python main.py --config=configs/reproductions/report003_sparse.py --workdir=runs/report003_sparse

Reported: no figures. The report tried the gate on "not-so-deep residual networks" and could not
take advantage of it. Ours: not run.

models/elu_resnet.py explains the gate. Chosen here: the network and recipe of report003_cifar10,
including dropout, and the epsilon that the gate's authors use for CIFAR-10, 2.5.
"""

import ml_collections

from configs.reproductions import report003_cifar10

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar10.get_config()
  config.model.block = "sparse"
  return config
