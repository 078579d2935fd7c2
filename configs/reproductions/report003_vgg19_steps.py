r"""Report 003, CIFAR-10: the network on the model of VGG-19 with a step schedule, up to 70 % test.

  python main.py --config=configs/reproductions/report003_vgg19_steps.py \
    --workdir=runs/report003_vgg19_steps

Reported: a test accuracy "as high as 70%", "after a while tampering with" the network in ways that
the report does not describe. Ours: not run.

The report cuts the rate "after a fixed number of epochs", but prints neither the number nor the
factor. Here the rate is halved every 20 epochs, as in the Keras VGG for CIFAR-10 of
geifmany/cifar-vgg on GitHub.
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
