from __future__ import annotations

import itertools

import numpy as np
import pytest

from bhpeft.judgement.bootstrap import paired_intervals
from bhpeft.tasks.sequences import BARS, Texts

WORDS = 50


def texts(rng: np.random.Generator, rows: int = 400, sharper: float = 1.0, draws: int = 1) -> Texts:
    """Return texts that a model wrote itself, as one reads them that is `sharper` than it."""
    tokens = rng.integers(3, 60, size=rows)
    said = np.zeros((draws, rows, 4))
    for row, many in enumerate(tokens):
        logits = rng.uniform(0.5, 2.0) * rng.normal(size=(many, WORDS))
        true = _probabilities(logits)
        written = (rng.random((many, 1)) < true.cumsum(-1)).argmax(-1)
        read = _probabilities(sharper * logits)
        entropy = -(read * np.log(read)).sum(-1).mean()
        likelihood = np.log(read[np.arange(many), written]).sum()
        said[:, row] = likelihood, many, entropy, entropy
    return Texts(said)


def _probabilities(logits: np.ndarray) -> np.ndarray:
    found = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(found / found.sum(-1, keepdims=True))


def test_a_model_that_wrote_the_texts_is_as_surprised_as_it_expects(
    rng: np.random.Generator,
) -> None:
    """Its error lies in the range of chance nineteen times in twenty; of 40 seeds at least 34."""
    inside = 0
    for _ in range(40):
        quality = texts(rng, 120).quality(rng)
        low, high = quality.calibration_error_null_low, quality.calibration_error_null_high
        inside += low <= quality.calibration_error <= high
    assert inside >= 34


@pytest.mark.parametrize("sharper", [1.6, 0.6])
def test_one_that_is_too_sure_or_not_sure_enough_is_beyond_chance(
    rng: np.random.Generator, sharper: float
) -> None:
    """Too sure: the NLL is above the entropy in every tenth of the rows; else below it."""
    quality = texts(rng, sharper=sharper).quality(rng)
    assert quality.calibration_error > 3 * quality.calibration_error_null_high
    assert len(quality.reliability) == BARS
    above = [bar.accuracy > bar.confidence for bar in quality.reliability]
    assert sum(above) >= 9 if sharper > 1 else sum(above) <= 1


def test_every_difference_is_that_of_the_reported_figures(rng: np.random.Generator) -> None:
    """Gates read differences, people read figures: the two must say the same."""
    one, other = texts(np.random.default_rng(3)), texts(np.random.default_rng(3), sharper=1.3)
    assert one.same_rows(other)
    found = paired_intervals(one, other, rng=rng, resamples=200)
    assert set(found) == {"nll", "calibration_error", "nll_at_rejection"}
    mine, theirs = one.quality(rng), other.quality(rng)
    for name, interval in found.items():
        assert interval.mean == pytest.approx(getattr(mine, name) - getattr(theirs, name)), name
        assert interval.low < interval.mean < interval.high


def test_what_is_left_when_unsure_texts_are_refused_counts_by_tokens(
    rng: np.random.Generator,
) -> None:
    """Nothing refused is the NLL itself, and the surest fifth of rows is told by its own sum."""
    found = texts(rng, 100)
    quality = found.quality(rng)
    curve = dict(quality.rejection)
    assert curve[0.0] == pytest.approx(quality.nll)
    order = np.argsort(found.uncertainty)[:80]
    kept = found.nll_rows[order].sum() / found.weights[order].sum()
    assert quality.nll_at_rejection == pytest.approx(kept)
    assert min(curve, key=lambda share: abs(share - 0.2)) == pytest.approx(0.2)
    assert curve[min(curve, key=lambda share: abs(share - 0.2))] == pytest.approx(kept)
    assert quality.nll_at_rejection < quality.nll


def test_rows_are_shown_from_the_likeliest_to_the_least_and_by_their_length(
    rng: np.random.Generator,
) -> None:
    """Bars hold each row once; a row of one token has no token to predict and is in none."""
    said = texts(rng, 101).said.copy()
    said[:, 7] = 0.0
    quality = Texts(said).quality(rng)
    shares, values = zip(*quality.spread, strict=True)
    each = -said[0, :, 0] / np.maximum(said[0, :, 1], 1)
    real = np.delete(each, 7)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert (values[0], values[-1]) == pytest.approx((real.min(), real.max()))
    assert list(values) == sorted(values)
    assert sum(part.rows for part in quality.lengths) == 100
    assert sum(part.tokens for part in quality.lengths) == quality.tokens
    ends = [(part.low, part.high) for part in quality.lengths]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends))
    mean = sum(part.nll * part.tokens for part in quality.lengths) / quality.tokens
    assert mean == pytest.approx(quality.nll)


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_a_handful_of_texts_has_figures_or_none(rng: np.random.Generator, rows: int) -> None:
    quality = texts(rng, rows).quality(rng)
    assert np.isfinite(quality.nll) == (rows > 0)
    assert len(quality.reliability) == len(quality.lengths) == (rows > 0)


def test_texts_of_one_token_say_nothing(rng: np.random.Generator) -> None:
    """There is no token after the first to be judged by."""
    assert np.isnan(Texts(np.zeros((2, 5, 4))).quality(rng).nll)
    assert np.isfinite(Texts(np.zeros((2, 5, 4))).statistics()(np.ones((1, 5)))).all()


def test_a_drift_table_is_shown_nll_entropy_and_length_of_each_text(
    rng: np.random.Generator,
) -> None:
    found = texts(rng, 20, draws=3)
    shown = found.seen(())["predictions"]
    np.testing.assert_allclose(shown["nll"] * shown["tokens"], found.nll_rows)
    assert set(shown) == {"nll", "uncertainty", "tokens"}
