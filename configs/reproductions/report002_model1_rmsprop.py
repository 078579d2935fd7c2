"""Report 002, model 1 with the RMSprop(1e-4, decay 1e-6) that the report defines and does not use.

Keras' decay: the rate at step t is 1e-4 / (1 + 1e-6 t).
"""

import ml_collections

from configs.reproductions import report002_model1

REPORTED = "none: defined there and not used"


def get_config() -> ml_collections.ConfigDict:
  config = report002_model1.get_config()
  config.optimizer.name = "rmsprop"
  config.optimizer.learning_rate = 1e-4
  config.schedule.name = "inverse_time"
  config.schedule.rate = 1e-6
  return config
