"""The binomial and beta laws, by continued fraction: serving installs no scipy."""

from __future__ import annotations

from math import exp, lgamma, log, log1p

from tocsin_calibration.errors import CalibrationError

STEPS = 100_000  # of the continued fraction; it needs a few times the square root of the larger parameter
TINY = 1e-300


def log_beta(a: float, b: float) -> float:
    """log of the beta function."""
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def beta_cdf(x: float, a: float, b: float) -> float:
    """P(Beta(a, b) <= x), to about 1e-12 (Lentz's method for the regularised incomplete beta function)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = exp(a * log(x) + b * log1p(-x) - log_beta(a, b)) / a
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, front * fraction)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x with P(Beta(a, b) <= x) = probability, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_cdf(middle, a, b) < probability else (low, middle)
    return (low + high) / 2


def binomial_cdf(count: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= count)."""
    if count < 0:
        return 0.0
    if count >= n:
        return 1.0
    return beta_cdf(1 - p, n - count, count + 1)


def binomial_quantile(probability: float, n: int, p: float) -> int:
    """The smallest count with P(Binomial(n, p) <= count) >= probability, by bisection."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_cdf(middle, n, p) >= probability else (middle, high)
    return high


def clopper_pearson(count: int, n: int, level: float = 0.99) -> tuple[float, float]:
    """The exact interval for a rate of which `count` in `n` independent trials were seen.

    It holds the true rate with probability at least `level` (Clopper and Pearson 1934). Without trials it is (0, 1).
    Raises CalibrationError unless 0 <= count <= n.
    """
    if not 0 <= count <= n:
        raise CalibrationError(f"there cannot be {count} in {n}")
    tail = (1 - level) / 2
    low = beta_quantile(tail, count, n - count + 1) if count else 0.0
    high = beta_quantile(1 - tail, count + 1, n - count) if count < n else 1.0
    return low, high


def upper_bound(count: int, n: int, delta: float) -> float:
    """The one-sided exact bound: the true rate lies above it with probability at most `delta`; 1 without trials."""
    return beta_quantile(1 - delta, count + 1, n - count) if count < n else 1.0


def _away_from_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
