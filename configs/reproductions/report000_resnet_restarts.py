"""Report 000, section d: the same ResNet with CosineDecayRestarts, about 88 % in the report.

The first cycle is 200 steps, about half an epoch, as the code has it; the rest as in
report000_resnet_plateau, without the plateau.

The report gives this one `from_logits=True` on a softmax output. TensorFlow's Keras looks behind
such a softmax and takes its input, so that this is the same loss as the other run's.
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
