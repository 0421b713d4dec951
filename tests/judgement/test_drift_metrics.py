from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bhpeft.judgement.conformance import check_drift_metric
from bhpeft.judgement.drift_columns import DriftTable
from bhpeft.judgement.drift_metrics import DRIFT_METRICS, classifier_auc, mmd


def embedded(rng: np.random.Generator, rows: int, moved: float = 0.0) -> DriftTable:
    vectors = rng.normal(size=(rows, 64)) + moved * np.eye(64)[0]
    return DriftTable(pd.DataFrame({"text": ["x"] * rows}), None, vectors)


@pytest.mark.parametrize("name", sorted(DRIFT_METRICS))
def test_every_metric_we_ship_conforms(name: str) -> None:
    """Users run the same check on theirs."""
    check_drift_metric(DRIFT_METRICS[name])


def test_auc_is_a_half_without_drift_and_one_with_much(rng: np.random.Generator) -> None:
    """It is measured on rows the classifier has not seen: no drift stays near chance."""
    reference = embedded(rng, 400)
    assert classifier_auc(embedded(rng, 200), reference) == pytest.approx(0.5, abs=0.1)
    assert classifier_auc(embedded(rng, 200, 6.0), reference) > 0.98


def test_more_dimensions_than_rows_do_not_look_like_drift(rng: np.random.Generator) -> None:
    """60 rows of 384 dimensions are separable exactly, and still no drift."""
    tables = [
        DriftTable(pd.DataFrame({"text": ["x"] * 60}), None, rng.normal(size=(60, 384)))
        for _ in range(2)
    ]
    assert classifier_auc(*tables) < 0.75


def test_mmd_is_unbiased_around_zero(rng: np.random.Generator) -> None:
    """Over repetitions without drift it averages to nothing, which the biased form does not."""
    values = [mmd(embedded(rng, 60), embedded(rng, 80)) for _ in range(40)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert mmd(embedded(rng, 60, 3.0), embedded(rng, 80)) > 10 * np.std(values)


def test_vectors_that_are_not_numbers_are_left_out(rng: np.random.Generator) -> None:
    """One NaN row must not spoil the fit; too few good rows are refused with the count."""
    new, old = embedded(rng, 60), embedded(rng, 60)
    assert new.embeddings is not None
    new.embeddings[:5] = np.nan
    assert 0.0 <= classifier_auc(new, old) <= 1.0
    new.embeddings[:40] = np.nan
    with pytest.raises(ValueError, match="20 rows"):
        classifier_auc(new, old)


def test_a_metric_that_cannot_see_drift_does_not_conform() -> None:
    """The check has teeth."""
    with pytest.raises(AssertionError, match="grow with drift"):
        check_drift_metric(lambda current, reference: 0.5)
    with pytest.raises(AssertionError, match="IndexError"):
        check_drift_metric(_indexes_an_empty_table)


def _indexes_an_empty_table(current: DriftTable, reference: DriftTable) -> float:
    first = list(current.rows["text"])[1]
    assert current.embeddings is not None
    return float(current.embeddings[:, 0].mean()) if first else 0.0
