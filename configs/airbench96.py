"""airbench96 (Jordan 2024, arXiv:2404.00498; KellerJordan/cifar10-airbench): 96 % in 37 epochs.

Published: 96.03 % test accuracy, the mean of 400 runs, with test-time augmentation; 34.7 seconds on
an A100 (legacy/airbench96.py, which this follows). Ours: not run. Apart from airbench94, where the
protocol is explained: a deeper and wider network with residual connections, PyTorch's momentum of
batch norm, lr 9 and weight decay 0.012 (a learning rate of 1.174 and a weight_decay of 1.333e-3 in
PyTorch's sense), a shorter warm-up, decay down to zero, shifts of up to 4 pixels, and a hole of
12 × 12 pixels that lies wholly inside the image.

The later airbench96_faster.py, which trains on the hardest examples, is airbench96_subset.
"""

import ml_collections

from configs import airbench94

REPORTED = "96.03 % test with multicrop, 400 runs"


def get_config() -> ml_collections.ConfigDict:
  config = airbench94.get_config()
  config.model.name = "airbench96"
  config.num_epochs = 37
  config.last_epoch = 1.0
  config.augment = (
    "alternating_flip() | random_crop(padding=4, mode='reflect') | cutout(size=12, inside=True)"
  )
  airbench94.set_optimizer(config, lr=9.0, weight_decay=0.012)
  config.schedule.pct_start = 0.1
  config.schedule.final = 0.0
  return config
