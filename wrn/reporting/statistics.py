"""Medians, intervals and decisions from few runs. No torch."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.9  # that every interval is made for


@dataclass(frozen=True)
class Interval:
    """A value and what it lies between, with so much confidence; of so many runs."""

    value: float
    low: float
    high: float
    n: int
    confidence: float = CONFIDENCE


def median(values: Sequence[float]) -> Interval:
    """The median and its bootstrap interval: percentiles of the medians of 10,000 draws with replacement, from there
    outwards to the next run.

    Of few runs it reaches from the least to the most, and cannot be as sure as it is meant to be: `confidence` is what
    it has. Of a distribution whatever, a run lies below its median in one of two cases.
    """
    n = len(values)
    medians = np.sort(np.median(np.random.default_rng(0).choice(values, (10_000, n)), axis=1))
    tail = round(len(medians) * (1 - CONFIDENCE) / 2)
    low = max(value for value in values if value <= medians[tail])
    high = min(value for value in values if value >= medians[-1 - tail])
    outside = (sum(value < low for value in values), sum(value > high for value in values))
    missed = sum(math.comb(n, runs) for most in outside for runs in range(most + 1)) / 2**n
    return Interval(statistics.median(values), low, high, n, 1 - missed)


def mean(values: Sequence[float]) -> Interval:
    """The mean and its interval by Student's t, which is honest for few runs; infinite for one."""
    center, n = statistics.mean(values), len(values)
    if n == 1:
        return Interval(center, -math.inf, math.inf, 1)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return Interval(center, center - half, center + half, n)


def paired(worse: Mapping[int, float], better: Mapping[int, float]) -> Interval | None:
    """By how much the first is higher, from the seeds that both have; None if they share none."""
    shared = sorted(worse.keys() & better.keys())
    return mean([worse[seed] - better[seed] for seed in shared]) if shared else None


def above_zero(difference: Interval, one_is_enough: bool = False) -> bool | None:
    """Whether it is positive; None if that is not decided.

    `one_is_enough`: of one run its sign decides, as the paper's own statement rests on one.
    """
    if difference.n == 1 and one_is_enough and difference.value != 0:
        return difference.value > 0
    if difference.low > 0:
        return True
    return False if difference.high < 0 else None


def within(ours: Interval, theirs: float, tolerance: float, one_is_enough: bool) -> bool | None:
    """Whether ours is theirs up to the tolerance; None where the interval leaves it open.

    Of fewer than three runs nothing follows, unless `one_is_enough`, since theirs is of one.
    """
    if ours.n < 3:
        return abs(ours.value - theirs) <= tolerance if one_is_enough else None
    if max(abs(ours.low - theirs), abs(ours.high - theirs)) <= tolerance:
        return True
    return False if ours.low > theirs + tolerance or ours.high < theirs - tolerance else None
