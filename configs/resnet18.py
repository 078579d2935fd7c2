"""Train ResNet-18 (He et al. 2016, CIFAR stem, 11.2 M parameters) on CIFAR-10.

  python main.py --config=configs/resnet18.py --workdir=runs/resnet18

The recipe of most CIFAR code bases: PyTorch's SGD with Nesterov momentum, cosine decay after a
short warm-up, crop and flip, and a weight decay of 5e-4 on all parameters.

Expected: the published test accuracy of this network is 95.28 %, the mean of 5 runs (DeVries &
Taylor 2017, arXiv:1708.04552, without cutout), in 200 epochs on all 50,000 training images, with a
learning rate that falls in steps, crops with a black border, and PyTorch's initialisation. Ours,
with 60 epochs on 45,000 images: not run.
"""

import ml_collections

from configs import default

REPORTED = "95.28 % test in 200 epochs, 5 runs"


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = "resnet18"
  config.num_epochs = 60
  config.batch_size = 128
  config.augment = "random_crop(padding=4) | random_flip()"
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.optimizer.lr_in_velocity = False
  config.loss.l2 = (("", 2.5e-4),)
  config.schedule.name = "warmup_cosine"
  config.schedule.warmup_epochs = 2.0
  return config
