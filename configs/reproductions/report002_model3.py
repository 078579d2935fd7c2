"""Report 002, model 3: three LeNet-like stages (1,668,906 parameters), 75.7 % validation."""

import ml_collections

from configs.reproductions import report002_model1

REPORTED = "75.7 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report002_model1.get_config()
  config.model.name = "lenet3"
  return config
