from __future__ import annotations

import json
import re

import numpy as np
import pytest

from bhpeft.judgement.report import Evidence, RoundReport, build_report
from bhpeft.tasks.categorical import Categorical
from tests.judgement.conftest import compare, read, task


def evidence(rng: np.random.Generator, rows: int = 300) -> Evidence:
    """Return a round whose champion trusts its signal too much and whose candidate does not."""
    sets = []
    for name in ("holdout", "movie-1", "movie | 2"):
        signal, labels = task(rng, rows)
        sets.append(compare(name, read(signal, labels), read(signal, labels, trust=2.5)))
    return Evidence(
        labels=("negative", "positive"),
        holdout=sets[0],
        regression=tuple(sets[1:]),
        slices=("kind",),
        posterior={"finite": True, "kl_nats": 7.5, "kl_by_block": {"0.query.lora.a": 7.5}},
        cost={"seconds": 3.0, "champion_milliseconds_per_row": None},
    )


@pytest.fixture(scope="module")
def report() -> RoundReport:
    return build_report(evidence(np.random.default_rng(31)))


def test_a_report_is_json_and_the_same_every_time(report: RoundReport) -> None:
    """What is stored can be compared with what is recomputed."""
    again = build_report(evidence(np.random.default_rng(31)))
    assert json.dumps(report.as_dict(), allow_nan=False) == json.dumps(again.as_dict())


def test_metrics_have_flat_names_the_registry_accepts(report: RoundReport) -> None:
    """MLflow allows letters, digits and _ - . : / space; a bar in a set's name is replaced."""
    metrics = report.metrics()
    for name in (
        "holdout/accuracy",
        "holdout/ece",
        "champion/nll",
        "difference/nll_upper",
        "regression/movie-1/accuracy_drop",
        "regression/movie _ 2/nll_rise",
        "slice/kind/rare/accuracy",
        "prequential/surprise",
        "shift/kl_nats",
        "cost/seconds",
    ):
        assert name in metrics
    assert "cost/champion_milliseconds_per_row" not in metrics
    for name, value in metrics.items():
        assert re.fullmatch(r"[\w.\-/ :]+", name, flags=re.ASCII)
        assert isinstance(value, float)
        assert np.isfinite(value)


def test_a_sets_intervals_do_not_depend_on_the_other_sets(report: RoundReport) -> None:
    """Each set has random numbers of its own: adding a regression set changes nothing else."""
    whole = evidence(np.random.default_rng(31))
    alone = build_report(Evidence(whole.labels, whole.holdout))
    assert alone.holdout == report.holdout


def test_slices_cover_the_holdout_once(report: RoundReport) -> None:
    """Each row is in one slice of a column, and the slices average to the whole."""
    assert [(piece.value, piece.rows) for piece in report.slices] == [
        ("common", 200),
        ("rare", 100),
    ]
    weighted = sum(piece.rows * piece.candidate for piece in report.slices) / 300
    assert weighted == pytest.approx(report.holdout.candidate.accuracy)


def test_the_prequential_signal_is_the_champions_own(rng: np.random.Generator) -> None:
    """A champion that fails on new rows is surprised by them, whatever the candidate does."""
    signal, labels = task(rng, 400)
    lost = read(-signal, labels)
    holdout = compare("holdout", read(signal, labels), lost)
    known = compare("movie-1", read(signal, labels), read(signal, labels))
    report = build_report(Evidence(("a", "b"), holdout, (known,)))
    assert report.prequential is not None
    surprise, sd = report.prequential["surprise"], report.prequential["surprise_sd"]
    assert surprise is not None
    assert sd is not None
    assert surprise > 5 * sd > 0
    assert report.prequential["nll"] == pytest.approx(report.holdout.reference.nll)


def test_in_the_first_round_the_baseline_stands_in(rng: np.random.Generator) -> None:
    """There is nothing prequential, and differences are against the label shares."""
    first = compare("holdout", read(*task(rng, 200)), None)
    report = build_report(Evidence(("a", "b"), first, known=np.array([0.5, 0.5])))
    assert report.first
    assert report.prequential is None
    assert report.holdout.reference.nll == pytest.approx(np.log(2))
    assert "baseline/nll" in report.metrics()


def test_numbers_that_do_not_exist_become_null(rng: np.random.Generator) -> None:
    """A diverged candidate or an empty hold-out still gives a report."""
    signal, labels = task(rng, 60)
    broken = Categorical(np.full((2, 60, 2), np.nan), labels)
    diverged = build_report(
        Evidence(("a", "b"), compare("holdout", broken, read(signal, labels)), slices=("kind",))
    )
    assert diverged.as_dict()["holdout"]["candidate"]["nll"] is None
    assert diverged.as_dict()["holdout"]["reference"]["nll"] is not None
    nothing = Categorical(np.empty((2, 0, 2)), labels[:0])
    empty = build_report(Evidence(("a", "b"), compare("holdout", nothing, nothing)))
    for report in (diverged, empty):
        json.dumps(report.as_dict(), allow_nan=False)
        assert report.holdout.differences == {}


def test_evidence_that_contradicts_itself_is_refused(rng: np.random.Generator) -> None:
    """Two sets of one name, or a slice column nobody has, would be silently lost."""
    found = compare("holdout", read(*task(rng, 60)), None)
    with pytest.raises(ValueError, match="share a name"):
        build_report(Evidence(("a", "b"), found, (found,)))
    with pytest.raises(ValueError, match="lacks the slice columns region"):
        build_report(Evidence(("a", "b"), found, slices=("region",)))
