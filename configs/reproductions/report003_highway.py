r"""Report 003, CIFAR-10: highway blocks, which the report wished to try but did not.

  python main.py --config=configs/reproductions/report003_highway.py \
    --workdir=runs/report003_highway

Reported: nothing. Ours: not run.

This is report003_cifar10 with a gate in every identity block (see models/elu_resnet.py). The
kernels of the gates have the same penalty as those of the blocks.
"""

import ml_collections

from configs.reproductions import report003_cifar10

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar10.get_config()
  config.model.block = "highway"
  return config
