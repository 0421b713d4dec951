from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bhpeft.judgement.conformance import example_reports
from bhpeft.judgement.figures import figures
from bhpeft.judgement.report import Evidence, build_report
from bhpeft.judgement.scored import Comparison
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
