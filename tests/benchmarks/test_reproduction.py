"""The reproduction's harness: cells that are kept, verdicts that follow, a page that says it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.budget import Skipped
from benchmarks.reproduction.__main__ import main, wanted
from benchmarks.reproduction.ablations.settings import compared
from benchmarks.reproduction.cells import Cell, Kept, work
from benchmarks.reproduction.claim import Criterion, Judged
from benchmarks.reproduction.claims import CLAIMS
from benchmarks.reproduction.claims.drift import rounds_to_recover
from benchmarks.reproduction.claims.overconfidence import counted
from benchmarks.reproduction.corpora import READERS, SPEAKERS, rows_of
from benchmarks.reproduction.everything import EVERYTHING
from benchmarks.reproduction.learner import Recipe
from benchmarks.reproduction.page import entry
from benchmarks.reproduction.plots import KINDS
from benchmarks.reproduction.recipes import ours
from benchmarks.reproduction.said import Said
from benchmarks.reproduction.statistics import (
    Estimate,
    auroc,
    difference_over_seeds,
    ece_of,
    over_rows,
    over_seeds,
    ratio_over_seeds,
)
from bhpeft.learning.variants import VARIANTS
from bhpeft.tasks.metrics import ece

ROOT = Path(__file__).parents[2]
TRAPS = Cell("traps", {"seed": 0})


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_claim_runs_at_its_smallest(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors fail; verdicts never do, on so few rows."""
    monkeypatch.chdir(ROOT)
    results = tmp_path / "found.json"
    words = [name, "--quick", "--kept", str(tmp_path), "--json", str(results)]
    assert main(words) == 0
    one = json.loads(results.read_text(encoding="utf-8"))[name]
    if one["verdict"] == "not yet run":
        pytest.skip("its corpus is not here")
    assert set(one) >= {"claim", "target", "measured", "interval", "seeds", "verdict"}
    assert set(one["measured"]) == set(one["interval"])
    assert len(one["measured"]) == len(one["criteria"])
    assert f"## {name}: {one['title']}" in results.with_suffix(".md").read_text(encoding="utf-8")
    assert all(plot["kind"] in KINDS for plot in one["plots"])


def test_ours_is_a_variant_that_a_stream_file_can_name() -> None:
    assert replace(Recipe(**ours()).chosen, name="bh_peft_head") == VARIANTS["bh_peft_head"]
    assert Recipe(**ours(head_std=0.0)).chosen == VARIANTS["bh_peft"]


def test_what_was_run_is_not_run_again(tmp_path: Path) -> None:
    kept, said = Kept(tmp_path), []
    for _ in range(2):
        assert work([TRAPS], kept, 60.0, said.append) == []
    assert len(said) == 1
    assert kept.find(TRAPS) is not None
    assert kept.seconds([TRAPS]) > 0


def test_a_cell_that_another_process_runs_is_left_to_it(tmp_path: Path) -> None:
    kept, said = Kept(tmp_path), []
    with kept.claimed(TRAPS) as mine:
        assert mine
        assert work([TRAPS], Kept(tmp_path), 60.0, said.append) == []
    assert said == []
    assert kept.find(TRAPS) is None


def test_a_cell_that_fails_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    strange = Cell("batch", {"seed": 0, "set": "nowhere"})
    problems = work([strange], Kept(tmp_path), 60.0)
    assert len(problems) == 1
    assert "nowhere" in problems[0]
    assert Kept(tmp_path).find(strange) is None


def test_no_seconds_left_begin_no_cell(tmp_path: Path) -> None:
    assert work([TRAPS], Kept(tmp_path), -1.0) == []
    assert Kept(tmp_path).find(TRAPS) is None


def test_a_cell_is_named_by_its_settings_whatever_their_order() -> None:
    one, other = Cell("batch", {"seed": 0, "a": 1}), Cell("batch", {"a": 1, "seed": 0})
    assert one.key == other.key
    assert one.key != Cell("batch", {"seed": 1, "a": 1}).key


def test_the_first_seed_of_every_claim_comes_before_the_second_of_any() -> None:
    cells = wanted(list(EVERYTHING), quick=False)
    seeds = [cell.params["seed"] for cell in cells]
    assert 0 not in seeds[seeds.index(1) :]
    assert len({cell.key for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("value", "at_least", "met", "surely"),
    [
        (Estimate(5.0, 4.5, 6.0), True, True, True),
        (Estimate(5.0, 3.0, 6.0), True, True, False),
        (Estimate(3.0, 2.0, 6.0), True, False, False),
        (Estimate(3.0, 2.0, 6.0), False, True, False),
    ],
)
def test_a_criterion_is_met_by_its_value_and_surely_by_its_interval(
    value: Estimate, at_least: bool, met: bool, surely: bool
) -> None:
    one = Criterion("x", value, 4.0, at_least)
    assert (one.met, one.surely) == (met, surely)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (Estimate(5.0, 4.5, 6.0), "met, interval and all"),
        (Estimate(5.0, 3.0, 6.0), "met in the mean"),
        (Estimate(3.0, 2.0, 6.0), "missed in the mean"),
        (Estimate(3.0, 2.0, 3.5), "missed, interval and all"),
        (Estimate(3.0, -math.inf, math.inf), "missed, one seed"),
    ],
)
def test_what_became_of_a_figure_is_told_by_its_interval(value: Estimate, outcome: str) -> None:
    assert Criterion("x", value, 4.0).outcome == outcome


def test_no_loss_is_shown_by_no_loss_beyond_the_slack() -> None:
    """Its mean has to reach the target all the same."""
    gained = Criterion("accuracy", Estimate(0.4, -1.3, 2.1), 0.0, slack=1.5)
    assert gained.surely
    assert not replace(gained, value=Estimate(0.4, -1.6, 2.4)).surely
    assert not replace(gained, value=Estimate(-0.4, -1.3, 0.5)).surely
    lost = Criterion("loss", Estimate(-0.4, -2.1, 1.3), 0.0, at_least=False, slack=1.5)
    assert lost.surely


def test_sets_are_counted_surely_and_at_most_too() -> None:
    sure, mean, missed, lost = (
        Criterion("x", value, 0.0)
        for value in (
            Estimate(1.0, 0.5, 2.0),
            Estimate(1.0, -0.5, 2.0),
            Estimate(-1.0, -2.0, 0.5),
            Estimate(-1.0, -2.0, -0.5),
        )
    )
    sets = [[sure, sure], [sure, mean], [sure, missed], [mean, lost], []]
    assert counted(sets) == Estimate(2.0, 1.0, 3.0)


def test_a_verdict_follows_from_the_criteria_that_decide() -> None:
    good = Criterion("good", Estimate(1.0, 1.0, 1.0), 0.0)
    bad = Criterion("bad", Estimate(-1.0, -1.0, -1.0), 0.0)
    aside = Criterion("aside", Estimate(-1.0, -1.0, -1.0), 0.0, decides=False)
    assert Judged().verdict == "not yet run"
    assert Judged([good, aside], [0, 1]).verdict == "reproduced"
    assert Judged([good, bad], [0, 1]).verdict == "partly reproduced"
    assert Judged([bad], [0, 1]).verdict == "not reproduced"
    assert Judged([good], [0]).verdict == "reproduced, on one seed"
    hardly = Criterion("hardly", Estimate(1.0, -1.0, 3.0), 0.0)
    assert Judged([good, hardly], [0, 1]).verdict == "reproduced in the mean"
    assert Judged([hardly, bad], [0, 1]).verdict == "partly reproduced"


def test_an_interval_nobody_knows_is_null_in_the_json() -> None:
    """JSON has no infinity; a single seed has no interval."""
    claim = next(iter(CLAIMS.values()))
    told = entry(claim, Judged([Criterion("x", over_seeds([1.0]), 0.0)], [0]), 1.0)
    assert told["interval"] == {"x": [None, None]}
    assert "x" in told["measured"]
    json.dumps(told, allow_nan=False)


def test_the_interval_over_seeds_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [over_seeds(rng.normal(2.0, 3.0, 5)) for _ in range(2000)]
    share = np.mean([one.low <= 2.0 <= one.high for one in found])
    assert abs(share - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)


def test_what_seeds_have_in_common_cancels_in_paired_figures() -> None:
    left, right = [1.0, 5.0, 9.0], [0.5, 4.5, 8.5]
    assert difference_over_seeds(left, right) == Estimate(0.5, 0.5, 0.5)
    ratio = ratio_over_seeds([2.0, 20.0], [1.0, 10.0])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))


def test_weighted_ece_is_the_metric_itself_where_each_row_counts_once() -> None:
    rng = np.random.default_rng(1)
    top = rng.uniform(0.5, 1.0, 400)
    probabilities = np.column_stack([top, 1 - top])
    labels = (rng.random(400) > 0.8).astype(int)
    found = ece_of(np.ones((1, 400)), (labels == 0).astype(float), top)
    assert found[0] == pytest.approx(ece(probabilities, labels))
    spread = over_rows(lambda n: ece_of(n, (labels == 0).astype(float), top), 400)
    assert spread.low < spread.high


def test_auroc_is_scikit_learns_ties_included() -> None:
    rng = np.random.default_rng(2)
    outside, inside = rng.integers(0, 9, 60) + 2.0, rng.integers(0, 9, 80) + 0.0
    truth = np.r_[np.ones(60), np.zeros(80)]
    assert auroc(outside, inside) == pytest.approx(roc_auc_score(truth, np.r_[outside, inside]))


def test_rounds_to_recover_count_from_the_drift_on() -> None:
    def after(before: float, now: float) -> dict[str, object]:
        return {"tests": {"before": {"accuracy": before}, "now": {"accuracy": now}}}

    sequence = [after(0.8, 0.2), after(0.9, 0.1), after(0.5, 0.5), after(0.2, 0.86)]
    assert rounds_to_recover({"rounds": sequence}) == 2
    assert rounds_to_recover({"rounds": sequence[:3]}) == 2


def said(nll: float, right: float = 0.8) -> Said:
    rows = np.full(50, nll)
    return Said(rows, np.full(50, right), np.full(50, 0.9), rows, rows)


def test_settings_are_paired_by_set_and_seed_and_what_is_surely_better_is_named() -> None:
    """What sets and seeds differ by cancels; a pair that one side lacks does not count."""
    pairs = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    hard = dict(zip(pairs, (0.1, 0.2, 0.9, 1.0), strict=True))
    noise = dict(zip(pairs, (0.02, -0.02, 0.01, -0.01), strict=True))
    seen = {
        "usual": {pair: said(nll) for pair, nll in hard.items()},
        "lower": {pair: said(hard[pair] - 0.05 + noise[pair] / 9) for pair in pairs},
        "alike": {pair: said(hard[pair] + noise[pair]) for pair in pairs[:3]},
        "higher": {pair: said(hard[pair] + 0.05) for pair in pairs},
    }
    judged = compared(seen, "usual", "a table")
    assert judged.verdict == "surely better: lower"
    assert judged.said == [
        "Beside usual: surely better by NLL: lower (-0.050); surely worse: higher (+0.050); "
        "not told apart: alike (+0.003)."
    ]
    assert [row[-1] for row in judged.tables[0].rows] == ["4", "4", "3", "4"]
    assert all(not one.decides for one in judged.criteria)


def test_nothing_is_concluded_from_a_setting_alone() -> None:
    assert compared({"usual": {("a", 0): said(0.1)}}, "usual", "a table").verdict == "not yet run"


def test_one_seed_of_an_ablation_says_so() -> None:
    seen = {way: {("a", 0): said(nll)} for way, nll in (("usual", 0.2), ("other", 0.1))}
    assert compared(seen, "usual", "t").verdict == "nothing is surely better, on one seed"


def test_readers_share_a_corpus_but_no_row_and_judge_it_otherwise() -> None:
    rows = {name: _rows_of(name) for name in READERS}
    for domain in {domain for domain, _, _ in READERS.values()}:
        lenient, strict = (rows[f"{kind} on {domain}"] for kind in ("lenient", "strict"))
        assert not set(lenient.texts) & set(strict.texts)
        # Labels are "above", "below": 0 is good.
        assert np.mean(lenient.labels) < np.mean(strict.labels)


def test_speakers_are_judged_by_speeches_nobody_learned() -> None:
    for name in SPEAKERS:
        try:
            train, _, test = rows_of(name, 0, 24, 24)
        except Skipped as reason:
            pytest.skip(str(reason))
        assert not set(train.texts) & set(test.texts)
        assert set(train.labels) == {0}


def _rows_of(name: str):
    try:
        return rows_of(name, 0, 200, 0)[0]
    except Skipped as reason:
        pytest.skip(str(reason))
