"""The statistics of compare, against SciPy, textbook figures and simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from trust import sentences, statistics
from trust.statistics import ImageDifference, SeedDifference


def by_seed(values, first=0):
  return {first + seed: float(value) for seed, value in enumerate(values)}


def drawn(count, deviation=0.004, mean=0.9, seed=0):
  return np.random.default_rng(seed).normal(mean, deviation, count)


# --- The tests and intervals ---------------------------------------------------------------------


def test_shared_seeds_are_compared_in_pairs():
  a, b = drawn(6), drawn(6, seed=1)
  sides = by_seed(a) | {99: 0.1}, by_seed(b) | {98: 0.2}  # seeds of one side alone do not count
  difference = statistics.compare_seeds(*sides)
  expected = stats.ttest_rel(b, a)
  assert difference.p == pytest.approx(expected.pvalue)
  for alpha in (0.05, 0.01):
    limits = expected.confidence_interval(1 - alpha)
    assert difference.interval(alpha) == pytest.approx((limits.low, limits.high))
  assert (difference.num_pairs, difference.counts) == (6, (6, 6))


def test_other_seeds_are_compared_by_their_means():
  a, b = drawn(5), drawn(9, deviation=0.01, seed=1)
  difference = statistics.compare_seeds(by_seed(a), by_seed(b, first=100))
  expected = stats.ttest_ind(b, a, equal_var=False)
  limits = expected.confidence_interval(0.95)
  assert difference.p == pytest.approx(expected.pvalue)
  assert difference.interval() == pytest.approx((limits.low, limits.high))
  assert (difference.num_pairs, difference.counts) == (0, (5, 9))


@pytest.mark.parametrize(
  ("a", "b"), [({0: 0.9}, {0: 0.8, 1: 0.8}), ({0: 0.9}, {1: 0.8}), ({}, {0: 0.1, 1: 0.2})]
)
def test_single_seeds_have_no_spread(a, b):
  assert statistics.compare_seeds(a, b) is None
  assert statistics.distinguishable(a, b) is None


def test_equal_differences_are_judged_by_their_signs():
  a = by_seed([0.1, 0.2, 0.3])
  b = {seed: value + 0.1 for seed, value in a.items()}  # 0.1 up to the rounding of floats
  difference = statistics.compare_seeds(a, b)
  assert difference.p == 0.25 and difference.interval() == pytest.approx((0.1, 0.1))
  same = statistics.compare_seeds(a, dict(a))
  assert same.p == 1 and same.interval() == (0, 0)


def test_images_are_compared_by_mcnemars_exact_test():
  """Agresti, Categorical Data Analysis: only those that disagree count."""
  a = np.array([1] * 60 + [1] * 9 + [0] * 3 + [0] * 28, bool)
  b = np.array([1] * 60 + [0] * 9 + [1] * 3 + [0] * 28, bool)
  difference = statistics.compare_images(a, b)
  assert difference == ImageDifference(100, 9, 3)
  assert difference.mean == pytest.approx(b.mean() - a.mean())
  tail = sum(math.comb(12, k) for k in range(4)) / 2**12
  assert difference.p == pytest.approx(2 * tail)
  same = statistics.compare_images(a, a)
  assert (same.mean, same.p, same.interval()) == (0, 1, (0, 0))


@pytest.mark.parametrize("only_b", range(31))
def test_the_interval_of_images_agrees_with_their_test(only_b):
  difference = ImageDifference(1000, 30 - only_b, only_b)
  low, high = difference.interval(0.05)
  assert low <= difference.mean <= high
  assert (low > 0 or high < 0) == (difference.p < 0.05)


# --- Several comparisons -------------------------------------------------------------------------


def seed_difference(p, mean=0.01):
  """Return a difference whose p value is `p`."""
  error = abs(mean) / stats.t.isf(p / 2, 9)
  return SeedDifference(mean, error, 9, 10, (10, 10), error * math.sqrt(10))


def test_several_comparisons_are_corrected_as_holm_does():
  values = [0.04, 0.01, 0.03, 0.005]
  verdicts = statistics.judge([seed_difference(p) for p in values])
  assert [v.p for v in verdicts] == pytest.approx([0.06, 0.03, 0.06, 0.02])
  assert [v.is_distinguishable for v in verdicts] == [False, True, False, True]
  assert [v.alpha for v in verdicts] == pytest.approx([0.025, 0.05 / 3, 0.025, 0.0125])
  (alone,) = statistics.judge([seed_difference(0.04)])
  assert alone.is_distinguishable and alone.p == pytest.approx(0.04)


def test_an_interval_excludes_zero_exactly_if_the_difference_counts():
  random = np.random.default_rng(0)
  for _ in range(50):
    values = random.uniform(0.001, 0.2, random.integers(1, 7))
    for verdict in statistics.judge([seed_difference(p) for p in values]):
      assert (verdict.low > 0) == verdict.is_distinguishable


# --- How often the tests err ---------------------------------------------------------------------


def binomial_bounds(count, share):
  """Return the counts that a true share gives in all but one of 10,000 simulations."""
  return stats.binom.ppf(0.00005, count, share), stats.binom.isf(0.00005, count, share)


def simulated(random, pairs, gain=0.0, seeds=20, images=5000):
  """Return accuracies [pairs, 2, seeds] of two configs, as counts of images.

  Seeds spread, and both sides share a part of what a seed decides.
  """
  shared = random.normal(0, 0.002, (pairs, 1, seeds))
  means = 0.9 + shared + random.normal(0, 0.003, (pairs, 2, seeds))
  means[:, 1] += gain
  return random.binomial(images, means) / images


@pytest.mark.parametrize("are_shared", [True, False])
def test_equal_configs_are_called_different_in_five_percent(are_shared):
  """20 seeds a side: the rate is the nominal one, in pairs and by the means."""
  accuracies = simulated(np.random.default_rng(1), 2000)
  called = 0
  for a, b in accuracies:
    b = b if are_shared else np.roll(b, 1)
    verdict = statistics.distinguishable(by_seed(a), by_seed(b, 0 if are_shared else 100))
    called += verdict.is_distinguishable
  low, high = binomial_bounds(2000, statistics.SIGNIFICANCE)
  assert low <= called <= high


def test_the_winner_of_equal_configs_is_not_called_different_more_often():
  """Eight equal configs of five seeds: the best against the second, chosen by rank."""
  random, called = np.random.default_rng(2), 0
  for _ in range(500):
    accuracies = simulated(random, 4, seeds=5).reshape(8, 5)
    ranking = sorted(accuracies, key=np.mean)
    called += statistics.distinguishable(
      by_seed(ranking[-1]), by_seed(ranking[-2])
    ).is_distinguishable
  assert called <= binomial_bounds(500, statistics.SIGNIFICANCE)[1]


def test_as_many_seeds_as_are_asked_for_show_the_difference():
  deviation, target = 0.004, 0.003
  count = statistics.seeds_needed(deviation, target, 0.05)
  random, found = np.random.default_rng(3), 0
  for _ in range(1000):
    b = random.normal(target, deviation, count)
    found += statistics.distinguishable(by_seed(b), by_seed(np.zeros(count))).is_distinguishable
  low, high = binomial_bounds(1000, statistics.POWER)
  assert low <= found <= high


@pytest.mark.parametrize(
  ("deviation", "target", "count"),
  # statsmodels 0.14 says 33.4, 9.9 and 4.2.
  [(2.0, 1.0, 34), (1.0, 1.0, 10), (0.5, 1.0, 5), (0.0, 1.0, 2)],
)
def test_seeds_needed_are_those_of_other_programs(deviation, target, count):
  assert statistics.seeds_needed(deviation, target, 0.05) == count
  if deviation == 1.0:  # two means: statsmodels says 32.4
    assert statistics.seeds_needed(1.0, 0.5, 0.05, 2) == 33


def test_a_hopeless_difference_needs_a_finite_number_of_seeds():
  assert statistics.seeds_needed(1.0, 1e-9, 0.05) == 1_000_000


# --- Sentences -----------------------------------------------------------------------------------


def sentence(a, b, measure=sentences.ACCURACY):
  (verdict,) = statistics.judge([statistics.compare_seeds(by_seed(a), by_seed(b))])
  return sentences.describe(verdict, "A", "B", measure)


def test_sentences():
  a = np.array([0.900, 0.902, 0.901, 0.899])
  better = np.add(a, [0.004, 0.005, 0.004, 0.005])
  assert (
    sentence(a, better)
    == "B is better than A by 0.45 ± 0.09 points (p = 0.00057, 4 pairs of seeds)"
  )
  assert (
    sentence(better, a)
    == "A is better than B by 0.45 ± 0.09 points (p = 0.00057, 4 pairs of seeds)"
  )
  assert sentence(a, better, sentences.LOSS).startswith("A is better than B by 0.0045 ± 0.0009 (p")
  similar = np.add(a, [0.001, -0.001, 0.002, 0.0])
  assert sentence(a, similar) == (
    "A and B are not distinguishable: B − A is 0.05 ± 0.21 points (p = 0.5, 4 pairs of seeds); "
    "about 12 more seeds would show 0.1 points"
  )
  close = np.add(a, [0.0001, -0.0001, 0.0001, -0.0001])
  assert sentence(a, close).endswith("; a difference of 0.1 points would probably have shown")
  assert sentence(a, a) == (
    "A and B are not distinguishable: each of the 4 seeds has the same figure in both"
  )


def test_sentences_about_images():
  (better,) = statistics.judge([ImageDifference(1000, 10, 40)])
  text = sentences.describe(better, "A", "B")
  assert text.startswith("B is better than A by 3.00 (") and " to " in text
  (similar,) = statistics.judge([ImageDifference(1000, 10, 12)])
  assert "several seeds of each are needed" in sentences.describe(similar, "A", "B")
  (same,) = statistics.judge([ImageDifference(1000, 0, 0)])
  assert "both are right about the same of the 1,000 images" in sentences.describe(same, "A", "B")


def test_sentences_about_the_lead_of_a_ranking():
  best, second = by_seed([0.91, 0.92, 0.915]), by_seed([0.90, 0.909, 0.906])
  assert sentences.describe_lead(best, second).startswith(
    "the best is better than the second by 1.00 ±"
  )
  losses = by_seed([0.31, 0.30, 0.32]), by_seed([0.41, 0.40, 0.421])
  lead = sentences.describe_lead(*losses, sentences.LOSS)
  assert lead.startswith("the best is better than the second by 0.1003 ±")
  single = sentences.describe_lead({0: 0.91}, {0: 0.9025})
  assert "they differ by 0.75 points" in single and "seed=0,1,2" in single
