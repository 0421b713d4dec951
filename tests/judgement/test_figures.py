from __future__ import annotations

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bhpeft.judgement.conformance import example_reports
from bhpeft.judgement.figures import figures

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


def test_a_full_round_has_six_figures_that_render() -> None:
    """Each becomes a PNG with ink on it, without pyplot."""
    report = replace(example_reports()["good"], drift=DRIFT)
    drawn = figures(report, TRAINING)
    assert list(drawn) == ["reliability", "rejection", "drift", "training", "shift", "regression"]
    for name, figure in drawn.items():
        page = io.BytesIO()
        figure.savefig(page, format="png", dpi=50)
        page.seek(0)
        with Image.open(page) as image:
            assert np.asarray(image.convert("L")).std() > 5, name
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
