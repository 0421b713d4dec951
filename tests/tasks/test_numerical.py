from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from bhpeft.judgement.bootstrap import paired_intervals
from bhpeft.tasks import task
from bhpeft.tasks.numerical import Numerical, calibration_null


def believed(
    rng: np.random.Generator, rows: int = 400, noise: float = 1.0, trust: float = 1.0
) -> Numerical:
    """Return three draws that know the mean and believe in noise ÷ trust."""
    truth = rng.normal(size=rows)
    mean = truth + 0.1 * rng.normal(size=(3, rows))
    std = np.full_like(mean, noise / trust)
    return Numerical(np.stack([mean, std], -1), truth + noise * rng.normal(size=rows))


def test_one_draw_is_a_gaussian_and_its_figures_are_the_textbooks(
    rng: np.random.Generator,
) -> None:
    """NLL, quantiles and coverage against scipy."""
    found = believed(rng).take(np.arange(400))
    one = Numerical(found.gaussians[:1], found.answers)
    mean, std = one.gaussians[0].T
    np.testing.assert_allclose(one.nll_rows, -norm.logpdf(one.answers, mean, std))
    low, high = one.interval
    np.testing.assert_allclose(low, norm.ppf(0.05, mean, std), atol=1e-9)
    np.testing.assert_allclose(high, norm.ppf(0.95, mean, std), atol=1e-9)
    quality = one.quality(rng)
    assert quality.rmse == pytest.approx(np.sqrt(((one.answers - mean) ** 2).mean()))
    assert quality.mae == pytest.approx(np.abs(one.answers - mean).mean())
    inside = (low <= one.answers) & (one.answers <= high)
    assert quality.coverage == pytest.approx(inside.mean())
    assert quality.interval_width == pytest.approx(2 * 1.6448536 * std.mean(), rel=1e-6)


def test_the_mixtures_variance_is_noise_and_disagreement(rng: np.random.Generator) -> None:
    """Monte Carlo from the mixture agrees with the split, and its density with log-mean-exp."""
    found = Numerical(np.array([[[0.0, 1.0]], [[3.0, 0.5]]]), np.array([1.0]))
    draws = np.concatenate([rng.normal(0.0, 1.0, 200_000), rng.normal(3.0, 0.5, 200_000)])
    assert found.aleatoric[0] == pytest.approx((1.0 + 0.25) / 2)
    assert found.epistemic[0] == pytest.approx(2.25)
    assert found.uncertainty[0] ** 2 == pytest.approx(draws.var(), rel=0.01)
    density = 0.5 * norm.pdf(1.0, 0.0, 1.0) + 0.5 * norm.pdf(1.0, 3.0, 0.5)
    assert found.nll_rows[0] == pytest.approx(-np.log(density))
    assert found.quantile(0.2)[0] == pytest.approx(np.quantile(draws, 0.2), abs=0.02)


def test_an_answer_beyond_all_draws_costs_much_but_stays_a_number() -> None:
    found = Numerical(np.array([[[0.0, 1e-3]], [[0.0, 1e-3]]]), np.array([50.0]))
    assert np.isfinite(found.nll_rows).all()
    assert found.nll_rows[0] > 1e8


def test_a_calibrated_model_is_inside_its_null_19_times_in_20() -> None:
    inside, covered = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=300)
        calibrated = Numerical(
            np.stack([truth, np.ones(300)], -1)[None], truth + rng.normal(size=300)
        )
        quality = calibrated.quality(rng)
        low, high = calibration_null(300, rng)
        inside += low <= quality.calibration_error <= high
        covered.append(quality.coverage)
    assert inside >= 52
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)


def test_an_overconfident_model_leaves_its_null_and_covers_too_little(
    rng: np.random.Generator,
) -> None:
    quality = believed(rng, trust=3.0).quality(rng)
    assert quality.calibration_error > quality.calibration_error_null_high
    assert quality.coverage < 0.6


def test_refusing_wide_predictions_lowers_the_error(rng: np.random.Generator) -> None:
    """Rows differ in noise, and the model knows which."""
    std = np.where(np.arange(500) % 5 == 0, 5.0, 0.5)
    answers = std * rng.normal(size=500)
    found = Numerical(np.stack([np.zeros(500), std], -1)[None], answers)
    quality = found.quality(rng)
    assert quality.rmse_at_rejection == pytest.approx(
        np.sqrt((answers[std < 1] ** 2).mean()), rel=1e-6
    )
    assert quality.rmse_at_rejection < quality.rmse / 3


def test_every_difference_is_that_of_the_reported_figures(rng: np.random.Generator) -> None:
    left = believed(rng)
    right = Numerical(left.gaussians * np.array([1.5, 1.0]), left.answers)
    found = paired_intervals(left, right, rng=rng, resamples=50)
    figures = left.quality(rng), right.quality(rng)
    for name in ("nll", "rmse", "mae", "calibration_error", "rmse_at_rejection"):
        expected = getattr(figures[0], name) - getattr(figures[1], name)
        assert found[name].mean == pytest.approx(expected, abs=1e-9), name


def test_the_baseline_knows_the_training_answers_and_no_text(rng: np.random.Generator) -> None:
    found = believed(rng, rows=50)
    known = task("regression").tally([np.array([1.0, 3.0])], ())
    baseline = found.baseline(known)
    np.testing.assert_allclose(baseline.mean, 2.0)
    np.testing.assert_allclose(baseline.uncertainty, 1.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="draws, rows, 2"):
        Numerical(np.zeros((2, 3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="answers"):
        Numerical(np.ones((2, 3, 2)), np.zeros(4))
