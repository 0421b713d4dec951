from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bhpeft.errors import UnknownName
from bhpeft.judgement.column_drift import DEFAULT_COLUMNS, DriftColumn, default_columns
from bhpeft.judgement.drift import DriftReport, DriftRule, DriftTable, drift_report
from bhpeft.tasks.chosen import Chosen
from bhpeft.tasks.numerical import Numerical
from bhpeft.tasks.sequences import Texts

WORDS = np.array(
    ["the", "(1999)", "...", "film", "was", "a", "quiet", "joy", "though", "long", "its", "end"]
)
LABELS = ("negative", "positive")


def table(
    rng: np.random.Generator,
    rows: int,
    *,
    positive: float = 0.5,
    words: int = 12,
    moved: float = 0.0,
    ending: str = "",
) -> DriftTable:
    """Return random sentences with labels, calibrated predictions and 32-wide embeddings."""
    texts = [" ".join(rng.choice(WORDS, rng.poisson(words) + 1)) + ending for _ in range(rows)]
    labels = rng.permutation((np.arange(rows) < positive * rows).astype(int))
    confidence = rng.beta(6, 2, rows)
    right = rng.random(rows) < confidence
    top = np.where(right, labels, 1 - labels)
    mean = np.stack([1 - confidence, confidence], 1)
    mean[top == 0] = mean[top == 0][:, ::-1]
    embeddings = rng.normal(size=(rows, 32)) + moved * np.eye(32)[0]
    frame = pd.DataFrame({"text": texts, "label": [LABELS[k] for k in labels]})
    return DriftTable(frame, mean, embeddings, LABELS)


@pytest.fixture(scope="module")
def reference() -> DriftTable:
    return table(np.random.default_rng(1), 600)


@pytest.fixture(scope="module")
def other_domain(reference: DriftTable) -> DriftReport:
    """Report on another domain: longer texts, other embeddings, labels at 68 % (as tweets are)."""
    current = table(np.random.default_rng(2), 300, positive=0.68, words=17, moved=3.0)
    return drift_report(current, reference)


def test_rows_from_the_same_source_are_no_drift(reference: DriftTable) -> None:
    """No column of the default set moves, and the embeddings cannot be told apart."""
    for seed, rows in ((3, 300), (4, 60)):
        found = drift_report(table(np.random.default_rng(seed), rows), reference)
        assert found.drifted is False
        assert found.extreme is False
        assert found.share == 0.0
        assert 0.25 < (found.columns["embedding"].value or 0.0) < 0.75


def test_another_domain_is_drift_but_not_extreme(other_domain: DriftReport) -> None:
    """What rounds are for must be flagged and must not stop the chain."""
    assert other_domain.drifted is True
    assert other_domain.extreme is False
    assert other_domain.columns["embedding"].drifted is True
    assert other_domain.columns["label"].drifted is True
    assert other_domain.columns["word_count"].drifted is True
    assert other_domain.label_variation == pytest.approx(0.18, abs=0.01)


def test_label_shares_that_move_by_a_third_are_extreme(reference: DriftTable) -> None:
    """A batch of one label only is held for a person, and the reason has the number in it."""
    found = drift_report(table(np.random.default_rng(5), 200, positive=0.97), reference)
    assert found.extreme is True
    assert "label shares moved by 0.47" in found.reasons[0]


def test_another_kind_of_document_is_extreme(reference: DriftTable) -> None:
    """Markup and dumps move a text statistic by many standard deviations."""
    current = table(np.random.default_rng(6), 200, ending=" <|0x00|>" * 40)
    found = drift_report(current, reference)
    assert found.extreme is True
    assert any("text_length moved by" in reason for reason in found.reasons)


def test_one_evidently_page_shows_columns_embeddings_and_calibration(
    other_domain: DriftReport, tmp_path: Path
) -> None:
    """Evidently's JSON has every value with a pass or fail of its own; its page opens offline."""
    named = {metric["metric_name"]: metric["value"] for metric in other_domain.json["metrics"]}
    for title in ("Drift of embedding (classifier_auc)", "Expected calibration error", "NLL"):
        assert any(title in name for name in named), title
    for name, column in other_domain.columns.items():
        if column.kind != "table":
            shown = [value for title, value in named.items() if f"column={name}," in title]
            assert shown == [pytest.approx(column.value, rel=1e-12)]
    statuses = [test["status"] for test in other_domain.json["tests"]]
    assert len(statuses) == len(DEFAULT_COLUMNS) + 3
    assert set(statuses) == {"SUCCESS", "FAIL"}
    page = other_domain.save_html(tmp_path / "drift.html").read_text(encoding="utf-8")
    assert "Drift of embedding" in page
    json.dumps(other_domain.as_dict(), allow_nan=False)
    json.dumps(other_domain.json, allow_nan=False)


def test_the_champions_calibration_is_shown_on_both_tables(other_domain: DriftReport) -> None:
    """The simulated champion is calibrated: ECE within chance, NLL better than label shares."""
    scores = other_domain.calibration
    assert scores["ece"].value <= scores["ece"].limit
    assert scores["nll"].value < scores["nll"].limit
    assert scores["ece"].reference is not None


def test_a_threshold_is_raised_to_what_chance_reaches() -> None:
    """150 labels on 300 rows: Jensen–Shannon is far above 0.1 with no drift at all."""
    rng = np.random.default_rng(7)
    current, reference = (
        DriftTable(pd.DataFrame({"text": ["x"] * rows, "label": rng.integers(150, size=rows)}))
        for rows in (300, 400)
    )
    found = drift_report(current, reference, {"label": DEFAULT_COLUMNS["label"]})
    column = found.columns["label"]
    assert (column.value or 0.0) > 0.2
    assert column.threshold > (column.value or 1.0)
    assert column.drifted is False
    assert "chance alone" in column.reason
    assert found.extreme is False


def test_a_method_means_the_same_on_both_sides_of_a_thousand_rows() -> None:
    """Evidently's own defaults flip from p-values to distances at 1,000 reference rows."""
    rng = np.random.default_rng(8)
    current = table(rng, 300, words=18)
    column = {"word_count": DEFAULT_COLUMNS["word_count"]}
    below, above = (
        drift_report(current, table(rng, rows), column).columns["word_count"]
        for rows in (900, 1100)
    )
    assert below.drifted is above.drifted is True
    assert below.value == pytest.approx(above.value, rel=0.2)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_a_handful_of_rows_is_not_evaluable(reference: DriftTable, rows: int) -> None:
    """Too few rows give neither an exception nor "no drift", and still a page to look at."""
    current = table(np.random.default_rng(9), rows)
    for found in (drift_report(current, reference), drift_report(current, current)):
        assert found.drifted is None
        assert found.extreme is None
        assert found.share is None
        for column in found.columns.values():
            assert column.drifted is None
            assert column.reason.startswith("not evaluable")


def test_degenerate_columns_are_not_evaluable_one_by_one(
    reference: DriftTable, tmp_path: Path
) -> None:
    """One class, missing texts, no predictions: each says why, the rest is still judged."""
    frame = pd.DataFrame({"text": [None] * 80 + ["a few words"] * 20, "label": ["positive"] * 100})
    bare = DriftTable(frame)
    found = drift_report(bare, DriftTable(frame.copy()))
    reasons = {name: column.reason for name, column in found.columns.items()}
    assert "same value" in reasons["label"]
    assert "20 current values" in reasons["word_count"]
    assert "no column 'prediction'" in reasons["prediction"]
    assert "no embeddings" in reasons["embedding"]
    assert found.drifted is None
    assert found.calibration == {}
    assert found.save_html(tmp_path / "empty.html").stat().st_size > 0
    partly = drift_report(bare, reference)
    assert partly.columns["label"].drifted is True
    assert partly.columns["embedding"].drifted is None


def test_predictions_that_are_not_numbers_are_not_evaluable(reference: DriftTable) -> None:
    """A champion gone NaN must not read as "confidence did not move"."""
    current = table(np.random.default_rng(10), 100)
    assert current.probabilities is not None
    broken = replace(current, probabilities=np.full_like(current.probabilities, np.nan))
    found = drift_report(broken, reference)
    assert found.columns["confidence"].drifted is None
    assert found.columns["word_count"].drifted is False
    assert found.calibration == {}


def test_text_drift_without_vocabulary_is_not_evaluable(reference: DriftTable) -> None:
    """Evidently's TF-IDF classifier has no terms left on such texts and raises."""
    frame = pd.DataFrame({"text": ["the", "and"] * 40, "label": list(LABELS) * 40})
    column = {"text": DriftColumn("abs_text_content_drift", 0.55, "text")}
    found = drift_report(DriftTable(frame), DriftTable(frame.copy()), column)
    assert found.columns["text"].drifted is None
    assert found.columns["text"].reason.startswith("not evaluable")


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        (DriftColumn("jensenshanon", 0.1, "categorical"), "no drift method 'jensenshanon'"),
        (DriftColumn("wasserstein", 0.1, "categorical"), "categorical"),
        (DriftColumn("psi", 0.1, "number"), "numerical"),
        (DriftColumn("classifer_auc", 0.75, "table"), "classifier_auc"),
    ],
)
def test_a_misspelt_method_is_an_error_and_not_silence(
    reference: DriftTable, column: DriftColumn, hint: str
) -> None:
    """A typo in the stream file must not turn a column off."""
    with pytest.raises(UnknownName, match=hint):
        drift_report(reference, reference, {"label": column})


def test_a_column_of_ones_own_and_a_p_value_method_work(reference: DriftTable) -> None:
    """Slices and keys can be watched like the built-in columns; for p-values less is drift."""
    rng = np.random.default_rng(11)
    new, old = (
        DriftTable(
            pd.DataFrame({"text": ["x"] * 200, "label": "a", "price": rng.normal(m, 1, 200)})
        )
        for m in (1.0, 0.0)
    )
    found = drift_report(new, old, {"price": DriftColumn("ks", 0.01)}).columns["price"]
    assert found.drifted is True
    assert (found.value or 1.0) < 0.01


def test_the_rule_is_configurable(reference: DriftTable) -> None:
    """A stricter rule calls the same tables drift, or extreme."""
    current = table(np.random.default_rng(12), 300, positive=0.66)
    columns = {"label": DEFAULT_COLUMNS["label"], "word_count": DEFAULT_COLUMNS["word_count"]}
    lenient = drift_report(current, reference, columns, rule=DriftRule(share=0.6))
    strict = drift_report(
        current, reference, columns, rule=DriftRule(decisive=("label",), extreme_labels=0.1)
    )
    assert (lenient.drifted, lenient.extreme) == (False, False)
    assert (strict.drifted, strict.extreme) == (True, True)


def test_the_same_tables_give_the_same_report(reference: DriftTable) -> None:
    """Re-splittings and folds are seeded."""
    current = table(np.random.default_rng(13), 80, words=13)
    first, second = (drift_report(current, reference).as_dict() for _ in range(2))
    assert first == second


def spoken(rng: np.random.Generator, rows: int, nll: float) -> DriftTable:
    """Return texts that a language model reads with about this NLL a token."""
    words = rng.integers(10, 20, size=rows)
    said = np.empty((2, rows, 4))
    said[..., 1] = words + rng.integers(3, size=rows)
    said[..., 2:] = 3.0
    said[..., 0] = -said[..., 1] * (nll + 0.3 * rng.normal(size=rows))
    frame = pd.DataFrame({"text": [" ".join(["word"] * many) for many in words]})
    scored = Texts(said)
    return DriftTable(frame, scored=scored, **scored.seen(()))


@pytest.mark.parametrize(("nll", "drifted", "extreme"), [(3.0, [], False), (6.0, ["nll"], True)])
def test_a_language_models_batch_is_compared_by_how_likely_each_text_is(
    nll: float, drifted: list[str], extreme: bool
) -> None:
    """Ten standard deviations of NLL on texts of the same lengths: a person should look."""
    rng = np.random.default_rng(20)
    reference, current = spoken(rng, 300, 3.0), spoken(rng, 200, nll)
    assert isinstance(current.scored, Texts)
    base = current.scored.said * np.array([1.5, 1.0, 1.0, 1.0])
    found = drift_report(current, reference, default_columns(""), known=base)
    assert [name for name, column in found.columns.items() if column.drifted] == drifted
    assert found.extreme is extreme
    assert any("the NLL of a token moved by" in reason for reason in found.reasons) is extreme
    assert found.columns["tokens"].drifted is False
    assert set(found.calibration) == {"calibration_error", "perplexity", "nll"}
    score = found.calibration["nll"]
    assert (score.value, score.reference) == pytest.approx((nll, 3.0), abs=0.1)
    assert score.limit == pytest.approx(1.5 * score.value)
    named = {metric["metric_name"] for metric in found.json["metrics"]}
    for title in ("Perplexity", "NLL (nats a token)", "column=nll,", "column=tokens,"):
        assert any(title in name for name in named), title


def test_what_measures_the_same_thing_counts_once() -> None:
    """Texts three times as long are one thing that changed, though three columns say so."""
    rng = np.random.default_rng(22)
    short = spoken(rng, 200, 3.0)
    said = short.scored.said.copy() if isinstance(short.scored, Texts) else np.empty(0)
    said[..., :2] *= 3.0
    longer = short.rows.assign(text=short.rows["text"].map(lambda text: " ".join([text] * 3)))
    current = DriftTable(longer, scored=Texts(said), **Texts(said).seen(()))
    columns = {name: one for name, one in default_columns("").items() if name != "embedding"}
    found = drift_report(current, short, columns)
    lengths = {name for name, one in found.columns.items() if one.drifted}
    assert lengths == {"tokens", "text_length", "word_count"}
    judged = [name for name, one in found.columns.items() if one.value is not None]
    assert found.share == pytest.approx(1 / (len(judged) - 2))


def test_questions_are_compared_by_their_options_and_how_decided_the_champion_is() -> None:
    """Four options instead of two or three, at the same margin: that column and no other."""
    rng = np.random.default_rng(23)

    def asked(options: np.ndarray) -> DriftTable:
        rows, there = len(options), np.arange(4) < options[:, None]
        best, margin = rng.integers(2, size=rows), rng.uniform(0.2, 0.6, size=rows)
        said = np.where(there, 1e-9, 0.0)
        said[np.arange(rows), best] = (1 + margin) / 2
        said[np.arange(rows), 1 - best] = (1 - margin) / 2
        scored = Chosen(said[None], best)
        frame = pd.DataFrame({"text": ["a question"] * rows, "label": np.array(list("ABCD"))[best]})
        return DriftTable(frame, scored=scored, **scored.seen(tuple("ABCD")))

    reference, current = asked(2 + rng.integers(2, size=200)), asked(np.full(200, 4))
    columns = default_columns("choice")
    del columns["entropy"], columns["embedding"]
    found = drift_report(current, reference, columns)
    assert [name for name, one in found.columns.items() if one.drifted] == ["options"]
    assert found.columns["margin"].value is not None


def test_the_champions_figures_are_those_of_its_task() -> None:
    """Ratings: RMSE must beat the mean rating's, quantiles hold what they say."""
    rng = np.random.default_rng(21)
    answers = rng.normal(size=200)
    said = np.stack([answers + 0.3 * rng.normal(size=200), np.full(200, 0.3)], -1)[None]
    table = DriftTable(
        pd.DataFrame({"text": ["a text"] * 200, "label": answers}),
        scored=Numerical(said, answers),
        **Numerical(said, answers).seen(()),
    )
    scores = drift_report(
        table, table, default_columns("numerical"), known=np.array([0.0, 1.0])
    ).calibration
    assert set(scores) == {"calibration_error", "rmse", "nll"}
    assert scores["rmse"].limit == pytest.approx(np.sqrt((answers**2).mean()))
    assert scores["rmse"].value < 0.4
    assert scores["calibration_error"].value <= scores["calibration_error"].limit
