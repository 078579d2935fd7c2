r"""Report 003, CIFAR-10: report003_cifar10 with an ordinary crop, and evaluated on the images.

  python main.py --config=configs/reproductions/report003_cifar10_corrected.py \
    --workdir=runs/report003_cifar10_corrected

Reported: nothing; the report has 86.75 % test with the crop of report003_cifar10. Ours: not run.

Each image is cropped at a different place, and validation and test use the unchanged images. The
difference between the two runs is what the report's crop inside the network costs.
"""

import ml_collections

from configs.reproductions import report003_cifar10

REPORTED = "none: a corrected report003_cifar10"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar10.get_config()
  config.augment = "random_crop(padding=4) | random_flip()"
  config.eval_transform = ""
  return config
