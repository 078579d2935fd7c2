"""Train WRN-28-10 (Zagoruyko & Komodakis 2016, arXiv:1605.07146; 36.5 M parameters) on CIFAR-10.

  python main.py --config=configs/wrn28_10.py --workdir=runs/wrn28_10

The recipe: PyTorch's SGD with Nesterov momentum, cosine decay over 200 epochs, crop with a mirrored
border, flip and a hole of 16 × 16 pixels (cutout, DeVries & Taylor 2017, arXiv:1708.04552),
gradients clipped at norm 5, and a weight decay of 5e-4 on all parameters.

Expected test accuracy, published for all 50,000 training images:

- 97.4 % with a similar recipe, the mean of 5 runs and the better of 200 and 400 epochs (Foret et
  al. 2021, arXiv:2010.01412, table 1, without SAM). There a batch has 256 images with the same
  hole, each device has separate batch statistics, and the shortcuts have no parameters.
- 96.92 % with cutout, dropout and a learning rate that falls in steps, the mean of 5 (DeVries &
  Taylor).
- 96.00 % without cutout, the median of 5 (Zagoruyko & Komodakis).

Ours: not run. This config holds out 5,000 images for validation. To train on all of them, add
--config.data.validation=0 --config.select.monitor=
"""

import ml_collections

from configs import default

REPORTED = "97.4 % test, 200 or 400 epochs, 5 runs"


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = "wrn28_10"
  config.num_epochs = 200
  config.batch_size = 128
  config.augment = "random_crop(padding=4, mode='reflect') | random_flip() | cutout(size=16)"
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.optimizer.lr_in_velocity = False
  config.optimizer.clip_norm = 5.0
  config.loss.l2 = (("", 2.5e-4),)
  config.schedule.name = "warmup_cosine"
  return config
