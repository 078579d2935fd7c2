r"""Report 000, section d: the ResNet of report000_resnet_plateau with CosineDecayRestarts.

  python main.py --config=configs/reproductions/report000_resnet_restarts.py \
    --workdir=runs/report000_resnet_restarts

Reported: an accuracy "quite as the same as the simple model", so about 88 % validation, that
fluctuated a lot. Ours: not run.

The first cycle has 200 steps, about half an epoch, as in the listing. Everything else is as in
report000_resnet_plateau, without the plateau.

The listing gives this run `from_logits=True` although the network ends in a softmax. Keras on
TensorFlow then takes the input of the softmax, so the loss is that of the other run.
"""

import ml_collections

from configs.reproductions import report000_resnet_plateau

REPORTED = "about 88 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report000_resnet_plateau.get_config()
  config.plateau.monitor = ""
  config.schedule.name = "cosine_restarts"
  config.schedule.first_decay_steps = 200
  config.schedule.t_mul = 2.0
  config.schedule.m_mul = 0.8
  config.schedule.alpha = 1e-5
  return config
