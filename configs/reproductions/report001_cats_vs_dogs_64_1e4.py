r"""Report 001, task 1: the grid's point with widths of 64 and Adam at 1e-4.

  python main.py --config=configs/reproductions/report001_cats_vs_dogs_64_1e4.py \
    --workdir=runs/report001_cats_vs_dogs_64_1e4 --config.data.source=PHOTOS

Reported: no figures (see report001_cats_vs_dogs_64). Ours, with 1,000 photos of each
class and three seeds: 72.3 ± 0.5 % test, 72.1 ± 0.8 % validation
(benchmarks/results/report001_cats_vs_dogs_64_1e4).
"""

import ml_collections

from configs.reproductions import report001_cats_vs_dogs_64

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report001_cats_vs_dogs_64.get_config()
  config.optimizer.learning_rate = 1e-4
  return config
