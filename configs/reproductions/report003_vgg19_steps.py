"""Report 003, CIFAR-10: the network after VGG-19 with a step schedule, as high as 70 % test.

The rate is cut "after a fixed number of epochs"; the report prints neither the number nor the
factor. Here it is halved every 20 epochs, as in the Keras VGG for CIFAR-10 that most copies start
from (geifmany/cifar-vgg on GitHub). The 70 % came "after a while tampering with" the network, in
ways that are not told.
"""

import ml_collections

from configs.reproductions import report003_vgg19

REPORTED = "as high as 70 % test"


def get_config() -> ml_collections.ConfigDict:
  config = report003_vgg19.get_config()
  config.schedule.name = "exponential"
  config.schedule.decay_epochs = 20
  config.schedule.rate = 0.5
  config.schedule.staircase = True
  return config
