r"""Report 001, task 2: the basic CNN with an inception block after its second stage, 64.0 % test.

  python main.py --config=configs/reproductions/report001_inception.py \
    --workdir=runs/report001_inception

Reported: 64.0 % test (loss 1.037), 64.6 % validation and 80.5 % training accuracy. Ours: not run.

The report does not print the widths inside the block; models/basic_cnn.py explains the choice.
"""

import ml_collections

from configs.reproductions import report001_basic_cnn

REPORTED = "64.0 % test (loss 1.037), 64.6 % validation, 80.5 % training"


def get_config() -> ml_collections.ConfigDict:
  config = report001_basic_cnn.get_config()
  config.model.name = "inception_cnn"
  return config
