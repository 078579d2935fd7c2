r"""Report 001, task 2: the residual network without its second convolution, 59.2 % test.

  python main.py --config=configs/reproductions/report001_residual_as_printed.py \
    --workdir=runs/report001_residual_as_printed

Reported: 59.2 % test (loss 1.171), 58.3 % validation and 75.5 % training accuracy, the same figures
as for report001_residual. Ours, one seed in bfloat16: 67.2 % test (loss 0.950), 67.6 % validation
and 76.4 % training (benchmarks/results/report001_residual_as_printed). So it learns as fast as
reported but generalises better. With 60 % of all images for training, 36,000, it reaches 75.3 %
training and 65.6 % validation accuracy (docs/measurements.md); the reason for the other seven
points is not known.

The listing's second pooling takes the output of the first stage and not that of the second
convolution, which drops that convolution from the network (see models/basic_cnn.py). The line lost
its beginning, and perhaps the number is misread too. The report prints one set of figures, and does
not show which of the two networks produced it.
"""

import ml_collections

from configs.reproductions import report001_residual

REPORTED = "59.2 % test (loss 1.171), 58.3 % validation, 75.5 % training"


def get_config() -> ml_collections.ConfigDict:
  config = report001_residual.get_config()
  config.model.name = "residual_cnn_as_printed"
  return config
