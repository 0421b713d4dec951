from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bhpeft.judgement.conformance import example_reports
from bhpeft.judgement.figures import figures
from bhpeft.judgement.report import Evidence, RoundReport, build_report
from bhpeft.judgement.scored import Comparison
from bhpeft.tasks.chosen import Chosen
from bhpeft.tasks.sequences import Texts

DRIFT = {
    "drifted": True,
    "extreme": False,
    "columns": {
        "label": {"value": 0.02, "threshold": 0.1, "drifted": False, "method": "jensenshannon"},
        "embedding": {
            "value": 0.98,
            "threshold": 0.75,
            "drifted": True,
            "method": "classifier_auc",
        },
        "entropy": {"value": None, "threshold": 0.25, "drifted": None, "method": "wasserstein"},
    },
}
TRAINING = [{"step": k, "loss": 1.0 / (k + 1), "nll": 0.9 / (k + 1), "kl": k} for k in range(20)]


def ink(figure: Figure) -> float:
    """Return how far the pixels of a figure's PNG are from all being alike."""
    page = io.BytesIO()
    figure.savefig(page, format="png", dpi=50)
    page.seek(0)
    with Image.open(page) as image:
        return float(np.asarray(image.convert("L")).std())


def test_a_full_round_has_six_figures_that_render() -> None:
    """Each becomes a PNG with ink on it, without pyplot."""
    report = replace(example_reports()["good"], drift=DRIFT)
    drawn = figures(report, TRAINING)
    assert list(drawn) == ["reliability", "rejection", "drift", "training", "shift", "regression"]
    for name, figure in drawn.items():
        assert ink(figure) > 5, name
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


@pytest.mark.parametrize("name", ["empty", "nan", "nan champion", "bare", "first"])
def test_what_is_missing_is_left_out(name: str) -> None:
    """A round without numbers draws what it has, and raises nothing."""
    report = example_reports()[name]
    drawn = figures(report)
    assert "training" not in drawn
    assert ("reliability" in drawn) == bool(report.holdout.candidate.reliability)
    for figure in drawn.values():
        figure.savefig(io.BytesIO(), format="png", dpi=30)


def test_a_language_models_round_is_drawn_in_its_own_units() -> None:
    """Nats and perplexity instead of shares; the texts have a figure of their own."""
    rng = np.random.default_rng(0)
    said = np.empty((2, 60, 4))
    said[..., 1] = rng.integers(5, 80, size=60)
    said[..., 2:] = rng.uniform(2.0, 4.0, size=(60, 1))
    said[..., 0] = -said[..., 1] * (said[..., 2] + rng.normal(0.5, 0.2, size=60))
    better = said + np.array([0.3, 0.0, 0.0, 0.0]) * said[..., 1:2]
    rows = pd.DataFrame({"text": ["a text"] * 60})
    comparison = Comparison("the new hold-out", rows, Texts(better), Texts(said))
    report = build_report(Evidence((), comparison, (replace(comparison, name="earlier"),)))
    drawn = figures(report)
    assert list(drawn) == ["reliability", "rejection", "texts", "regression"]
    curve = drawn["reliability"].axes[0]
    low, high = curve.get_xlim()
    assert 1.5 < low < high < 6.0
    assert curve.get_ylabel() == "NLL of it, nats"
    spread, lengths = drawn["texts"].axes
    told = [line.get_text() for line in spread.get_legend().get_texts()]
    assert told[1] == f"candidate: perplexity {report.holdout.candidate.perplexity:,.1f}"
    assert lengths.get_ylabel() == "perplexity"
    assert len(drawn["regression"].axes) == 1
    for name, figure in drawn.items():
        assert ink(figure) > 5, name


def questions_asked(rows: int = 90) -> tuple[Comparison, np.ndarray]:
    """Return a champion that likes the first of two or three options, and a candidate that reads.

    Also the right answers.
    """
    rng = np.random.default_rng(0)
    options = 2 + np.arange(rows) % 2
    right = (rng.random(rows) * options).astype(np.int64)
    there = np.arange(3) < options[:, None]
    said = []
    for liking in (4.0 * np.eye(3)[np.where(rng.random(rows) < 0.8, right, 0)], [3.0, 0.0, 0.0]):
        weights = np.where(there, np.exp(rng.normal(scale=0.5, size=(2, rows, 3)) + liking), 0.0)
        said.append(Chosen(weights / weights.sum(-1, keepdims=True), right))
    table = pd.DataFrame({"text": ["a question"] * rows})
    return Comparison("the new hold-out", table, *said), right


def test_a_round_of_questions_shows_chance_places_and_margin() -> None:
    """A bar a side and place; the line that says "guess" is at one over the options."""
    comparison, right = questions_asked()
    report = build_report(Evidence(("A", "B", "C"), comparison))
    drawn = figures(report)
    assert list(drawn) == ["reliability", "rejection", "options"]
    counts, margins, places, chosen = drawn["options"].axes
    assert [tick.get_text() for tick in counts.get_xticklabels()] == ["2 (45)", "3 (45)"]
    assert [line.get_ydata()[0] for line in counts.lines] == [1 / 2, 1 / 3]
    mine = report.holdout.candidate
    told = [text.get_text() for text in counts.get_legend().get_texts()]
    assert set(told) == {
        f"champion: {report.holdout.reference.accuracy:.3f}",
        f"candidate: {mine.accuracy:.3f}",
        f"a guess: {5 / 12:.3f}",
    }
    stands = np.bincount(right, minlength=3)
    assert [tick.get_text() for tick in places.get_xticklabels()] == [
        f"{name} ({count})" for name, count in zip("ABC", stands, strict=True)
    ]
    shares = [bar.get_height() for bar in chosen.patches]
    assert len(shares) == 6
    assert sum(shares[:3]) == pytest.approx(1.0)
    assert shares[0] > 0.8 > shares[3], "the champion likes the first"
    assert len(margins.lines) == 2
    assert ink(drawn["options"]) > 5


def test_a_task_of_ones_own_draws_a_figure_of_its_own() -> None:
    """By `package.module:attribute`, under the attribute's name."""
    comparison, _ = questions_asked(30)
    own = "tests.judgement.test_figures:blank"
    told = replace(comparison.candidate.figures, shown=("options", own))

    class Mine(Chosen):
        figures = told

        def quality(self, rng: np.random.Generator) -> Any:
            found = super().quality(rng)
            return type("Told", (type(found),), {"figures": told})(**vars(found))

    sides = [Mine(one.probabilities, one.labels) for one in (comparison.candidate,) * 2]
    report = build_report(Evidence(("A", "B", "C"), Comparison("new", comparison.rows, *sides)))
    assert list(figures(report)) == ["reliability", "rejection", "options", "blank"]


def blank(report: RoundReport) -> Figure:
    return Figure()
