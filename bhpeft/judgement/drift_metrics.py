"""Measure drift between two whole tables: the place to add a drift metric of one's own.

A drift metric is a function `(current, reference) -> float`, larger meaning more drift. Where the
tables do not allow the measurement it raises `ValueError` with the reason, which is reported as
"not evaluable" and never as "no drift". Add a line to `DRIFT_METRICS`, or name
`package.module:attribute` in the stream file; `conformance.check_drift_metric` tries it out.

Sources: classifier two-sample test, Lopez-Paz and Oquab 2017 (arXiv 1610.06545); unbiased squared
MMD, Gretton et al. 2012 (JMLR 13), eq. 3, with the median heuristic for the bandwidth.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from bhpeft.judgement.drift_columns import DriftTable

DriftMetric = Callable[[DriftTable, DriftTable], float]

# Below this a cross-validated AUC in hundreds of dimensions is noise (its sd passes 0.07).
MIN_ROWS = 50
# More rows than this add seconds and no accuracy to a yes-or-no question.
_MOST_ROWS = 1000


def classifier_auc(current: DriftTable, reference: DriftTable) -> float:
    """Return how well a logistic regression tells the two tables' embeddings apart, as AUC.

    0.5 means that it cannot: no drift. Five stratified folds from a fixed seed, mean of the folds'
    AUCs, so that the value is measured on rows the classifier has not seen.

    Raises:
        ValueError: no embeddings, or too few rows.
    """
    new, old = _embeddings(current), _embeddings(reference)
    features = np.concatenate([new, old]).astype(np.float64)
    side = np.repeat([1, 0], [len(new), len(old)])
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(features, side)
    return float(np.mean([_auc(features, side, train, test) for train, test in folds]))


def mmd(current: DriftTable, reference: DriftTable) -> float:
    """Return the squared maximum mean discrepancy of the embeddings, unbiased (about 0: same).

    Raises:
        ValueError: no embeddings, or too few rows.
    """
    new, old = _embeddings(current), _embeddings(reference)
    across = cdist(new, old, "sqeuclidean")
    within_new, within_old = cdist(new, new, "sqeuclidean"), cdist(old, old, "sqeuclidean")
    width = float(np.median(across)) or 1.0
    kernel = [np.exp(-distance / width) for distance in (within_new, within_old, across)]
    m, n = len(new), len(old)
    return float(
        (kernel[0].sum() - m) / (m * (m - 1))
        + (kernel[1].sum() - n) / (n * (n - 1))
        - 2 * kernel[2].mean()
    )


DRIFT_METRICS: Mapping[str, DriftMetric] = {"classifier_auc": classifier_auc, "mmd": mmd}


def _embeddings(table: DriftTable) -> np.ndarray:
    if table.embeddings is None:
        raise ValueError("there are no embeddings")
    rows = table.embeddings[np.isfinite(table.embeddings).all(1)]
    if len(rows) < MIN_ROWS:
        raise ValueError(f"{len(rows)} rows with embeddings, at least {MIN_ROWS} are needed")
    if len(rows) <= _MOST_ROWS:
        return rows
    # Evenly spaced and not the first thousand: batches are often sorted by time.
    return rows[np.linspace(0, len(rows) - 1, _MOST_ROWS).astype(int)]


def _auc(features: np.ndarray, side: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    scaler = StandardScaler().fit(features[train])
    # Strong shrinkage: with fewer rows than dimensions the free fit separates noise perfectly.
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=100)
    with warnings.catch_warnings():
        # An unconverged fit is still a valid classifier, judged on rows it has not seen.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaler.transform(features[train]), side[train])
    return float(
        roc_auc_score(side[test], model.decision_function(scaler.transform(features[test])))
    )
