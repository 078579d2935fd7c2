"""Whether two configs differ: pure functions on the figures that their runs recorded.

Figures of several seeds are compared by a t test: of the differences between the seeds that both
sides share, or, if they share fewer than two, of the two means (Welch 1947). It answers the
question: would other seeds show the same on these images? Two single networks are compared by
McNemar's exact test (1947) on the images that only one of them classifies correctly. It answers
another question: would other images show the same of these two networks?

A difference counts if its p value is at most SIGNIFICANCE, after Holm's correction (1979) if there
are several comparisons. tests/trust/test_statistics.py simulates how often that is wrong.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

SIGNIFICANCE = 0.05  # the share of equal configs that are called different
POWER = 0.8  # the share of true differences that enough seeds must show
_NOISE = 1e-12  # a spread below this is the rounding of equal numbers
_MOST_SEEDS = 1_000_000


@dataclasses.dataclass(frozen=True)
class SeedDifference:
  """The difference B − A of two configs, over their seeds.

  Attributes:
    mean: of B minus that of A.
    standard_error: of `mean`.
    freedom: degrees of freedom of the t distribution.
    num_pairs: seeds that both sides have; 0 if the two means are compared.
    counts: seeds of A and of B that the comparison uses.
    deviation: standard deviation of the difference of one seed of each side.
  """

  mean: float
  standard_error: float
  freedom: float
  num_pairs: int
  counts: tuple[int, int]
  deviation: float

  @property
  def has_spread(self) -> bool:
    return self.standard_error > _NOISE

  @property
  def p(self) -> float:
    """The two-sided p value under the hypothesis that the configs are equal.

    If all pairs have the same difference, as rounded accuracies may, there is no t. The p value is
    then that of the signs: 2 of the 2 ** pairs choices of signs are as extreme.
    """
    from scipy import stats

    if self.has_spread:
      return float(2 * stats.t.sf(abs(self.mean) / self.standard_error, self.freedom))
    return 1.0 if abs(self.mean) <= _NOISE else 2.0 ** (1 - min(self.counts))

  def interval(self, alpha: float = SIGNIFICANCE) -> tuple[float, float]:
    """Return the limits of the interval that holds the true difference in 1 − alpha of cases."""
    from scipy import stats

    if not self.has_spread:
      return self.mean, self.mean
    half_width = float(stats.t.isf(alpha / 2, self.freedom)) * self.standard_error
    return self.mean - half_width, self.mean + half_width

  def more_seeds(self, target: float, alpha: float = SIGNIFICANCE) -> int:
    """Return how many more seeds of each side would show a true difference of `target`.

    They are enough if they show it, at level alpha, in POWER of all experiments. This assumes that
    the differences of further seeds spread like those so far.
    """
    per_seed = 1 if self.num_pairs else 2
    return max(0, seeds_needed(self.deviation, target, alpha, per_seed) - min(self.counts))


@dataclasses.dataclass(frozen=True)
class ImageDifference:
  """The difference B − A of two networks, over images that both have classified.

  Attributes:
    num_images: the images.
    only_a: those that A alone classifies correctly.
    only_b: those that B alone classifies correctly.
  """

  num_images: int
  only_a: int
  only_b: int

  @property
  def mean(self) -> float:
    return (self.only_b - self.only_a) / self.num_images

  @property
  def p(self) -> float:
    """The two-sided p value of McNemar's exact test."""
    from scipy import stats

    disagreements = self.only_a + self.only_b
    return float(stats.binomtest(self.only_b, disagreements).pvalue) if disagreements else 1.0

  def interval(self, alpha: float = SIGNIFICANCE) -> tuple[float, float]:
    """Return limits of the difference of accuracies, given how many images they disagree on.

    They are those of Clopper and Pearson (1934), which exclude 0 exactly when p < alpha.
    """
    from scipy import stats

    disagreements = self.only_a + self.only_b
    if not disagreements:
      return 0.0, 0.0
    limits = stats.binomtest(self.only_b, disagreements).proportion_ci(1 - alpha, "exact")
    share = disagreements / self.num_images
    return share * (2 * float(limits.low) - 1), share * (2 * float(limits.high) - 1)


Difference: TypeAlias = SeedDifference | ImageDifference


class Verdict(NamedTuple):
  """One of several comparisons, judged.

  Attributes:
    difference: the comparison.
    p: the p value after Holm's correction.
    alpha: the level at which it was judged, and of `low` and `high`.
    low, high: the interval of the difference, which excludes 0 if `is_distinguishable`.
    is_distinguishable: whether the difference counts.
  """

  difference: Difference
  p: float
  alpha: float
  low: float
  high: float
  is_distinguishable: bool


def compare_seeds(a: Mapping[int, float], b: Mapping[int, float]) -> SeedDifference | None:
  """Compare the figures of two configs by seed.

  Returns:
    None if a side has too few seeds: at least two must be shared, or at least two be on each side.
  """
  shared = sorted(a.keys() & b.keys())
  if len(shared) >= 2:
    differences = np.array([b[seed] - a[seed] for seed in shared])
    count, deviation = len(shared), float(differences.std(ddof=1))
    mean, error = float(differences.mean()), deviation / math.sqrt(count)
    return SeedDifference(mean, error, count - 1, count, (count, count), deviation)
  if min(len(a), len(b)) < 2:
    return None
  sides = [np.array(list(side.values())) for side in (a, b)]
  variances = [float(side.var(ddof=1)) for side in sides]
  shares = [variance / len(side) for variance, side in zip(variances, sides, strict=True)]
  squares = sum(share**2 / (len(side) - 1) for share, side in zip(shares, sides, strict=True))
  freedom = sum(shares) ** 2 / squares if squares else len(a) + len(b) - 2
  mean = float(sides[1].mean() - sides[0].mean())
  counts, deviation = (len(a), len(b)), math.sqrt(sum(variances))
  return SeedDifference(mean, math.sqrt(sum(shares)), freedom, 0, counts, deviation)


def compare_images(correct_a: np.ndarray, correct_b: np.ndarray) -> ImageDifference:
  """Compare two networks image by image.

  Args:
    correct_a, correct_b: whether each network classifies each image correctly, [n] bool.
  """
  only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
  return ImageDifference(len(correct_a), only_a, only_b)


def seeds_needed(deviation: float, target: float, alpha: float, freedom_per_seed: int = 1) -> int:
  """Return how many seeds show a difference of `target` in POWER of all experiments.

  Args:
    deviation: standard deviation of the difference of one seed.
    target: the true difference, more than 0.
    alpha: the level of the two-sided t test.
    freedom_per_seed: degrees of freedom that a seed adds: 1 for pairs, 2 for two means.

  Returns:
    At least 2, and at most a million.
  """
  from scipy import stats

  normal = stats.norm.isf(alpha / 2) + stats.norm.isf(1 - POWER)
  count = max(2, math.floor(min(_MOST_SEEDS, (normal * deviation / target) ** 2)))
  while deviation > _NOISE and count < _MOST_SEEDS:
    freedom = freedom_per_seed * (count - 1)
    shift = target / deviation * math.sqrt(count)
    if stats.nct.sf(stats.t.isf(alpha / 2, freedom), freedom, shift) >= POWER:
      break
    count += 1
  return count


def judge(differences: Sequence[Difference]) -> list[Verdict]:
  """Return the verdict on each of several comparisons that are made together.

  Holm's procedure takes the p values in ascending order, at the levels SIGNIFICANCE / m,
  SIGNIFICANCE / (m − 1), and so on, and stops at the first that is greater. With it, the chance
  that any of m equal pairs is called different is at most SIGNIFICANCE. Each interval has the level
  of its comparison's step, or of the step that stopped the procedure.
  """
  p_values = [difference.p for difference in differences]
  ascending = np.argsort(p_values, kind="stable").tolist()
  levels = [SIGNIFICANCE / remaining for remaining in range(len(p_values), 0, -1)]
  passes = [p_values[index] <= level for index, level in zip(ascending, levels, strict=True)]
  num_distinguishable = [*passes, False].index(False)
  verdicts: dict[int, Verdict] = {}
  corrected = 0.0
  for step, index in enumerate(ascending):
    corrected = max(corrected, min(1.0, (len(p_values) - step) * p_values[index]))
    alpha = levels[min(step, num_distinguishable)]
    low, high = differences[index].interval(alpha)
    is_distinguishable = step < num_distinguishable
    verdicts[index] = Verdict(differences[index], corrected, alpha, low, high, is_distinguishable)
  return [verdicts[index] for index in range(len(differences))]


def distinguishable(first: Mapping[int, float], second: Mapping[int, float]) -> Verdict | None:
  """Judge whether the best of a ranking differs from the second, by their figures by seed.

  That the two were chosen by rank makes the test stricter and not looser: the two highest of many
  equal configs are closer to each other than two that were not chosen.

  Returns:
    None if there are too few seeds, as for `compare_seeds`.
  """
  difference = compare_seeds(second, first)
  return None if difference is None else judge([difference])[0]
