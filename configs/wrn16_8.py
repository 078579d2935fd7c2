"""Train WRN-16-8 (Zagoruyko & Komodakis 2016, arXiv:1605.07146; 11.0 M parameters) on CIFAR-10.

  python main.py --config=configs/wrn16_8.py --workdir=runs/wrn16_8

This is wrn28_10's recipe with a network of less than a third of the size.

Expected: the paper's test accuracy is 95.73 % with all 50,000 training images (table 4), a learning
rate that falls in steps, crop and flip, and no cutout. No figure is known for this recipe. Ours:
not run.
"""

import ml_collections

from configs import wrn28_10

REPORTED = "95.73 % test, another recipe"


def get_config() -> ml_collections.ConfigDict:
  config = wrn28_10.get_config()
  config.model.name = "wrn16_8"
  return config
