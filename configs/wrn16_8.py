"""WRN-16-8 (Zagoruyko & Komodakis 2016, arXiv:1605.07146; 11.0 M parameters) on CIFAR-10.

The recipe of wrn28_10 with a network of less than a third of its size. Published, on all 50,000
training images: 95.73 % (table 4 of the paper: the rate in steps, crop and flip, no cutout); none
known with this recipe. Ours: not run.
"""

import ml_collections

from configs import wrn28_10

REPORTED = "95.73 % test, another recipe"


def get_config() -> ml_collections.ConfigDict:
  config = wrn28_10.get_config()
  config.model.name = "wrn16_8"
  return config
