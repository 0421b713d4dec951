"""Gates on simulated rounds whose right answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bhpeft.errors import StreamFileError, UnknownName
from bhpeft.judgement.conformance import check_gate, example_reports
from bhpeft.judgement.gates import GATES, HEADLINES, Settings, check_settings, decide
from bhpeft.judgement.report import Evidence, RoundReport, build_report
from bhpeft.judgement.scored import Comparison
from bhpeft.judgement.verdict import Verdict
from bhpeft.tasks.categorical import Categorical
from bhpeft.tasks.sequences import Texts
from tests.judgement.conftest import compare, read, task

HEALTHY: dict[str, Any] = {
    "finite": True,
    "std_ratio_median": 0.4,
    "share_floor": 0.0,
    "share_ceiling": 0.01,
    "rho_travel_met": True,
}
COST: dict[str, float | None] = {
    "seconds": 20.0,
    "state_bytes": 1e6,
    "milliseconds_per_row": 6.0,
    "champion_state_bytes": 1e6,
    "champion_milliseconds_per_row": 5.5,
}
FAITHFUL: dict[str, Any] = {
    "predictor": "calibrated",
    "rows": 32,
    "draws": 100,
    "kl": 0.02,
    "kl_ratio": 0.5,
    "rank_correlation": 0.9,
    "rank_gap": 0.0,
    "cost": 1.1,
    "others": {"full": {"kl": 0.03, "kl_ratio": 0.75}},
}
CALM: dict[str, Any] = {
    "drifted": False,
    "extreme": False,
    "share": 0.0,
    "reasons": [],
    "columns": {},
    "label_variation": 0.01,
}


def a_round(
    new: tuple[Categorical, Categorical | None],
    old: tuple[Categorical, Categorical | None] | None = None,
    **facts: Any,
) -> RoundReport:
    """Return the report of (candidate, champion) on the hold-out and on one regression set."""
    regression = () if old is None else (compare("movie-1", *old),)
    built = build_report(
        Evidence(
            labels=("negative", "positive"),
            holdout=compare("holdout", *new),
            regression=regression,
            posterior=facts.get("posterior", HEALTHY),
            cost=facts.get("cost", COST),
            fidelity=facts.get("fidelity", FAITHFUL),
        )
    )
    return replace(built, drift=facts.get("drift", CALM))


def outcomes(report: RoundReport, settings: Settings | None = None) -> dict[str, str]:
    return {verdict.gate: verdict.outcome for verdict in decide(report, settings).verdicts}


@pytest.fixture(scope="module")
def better() -> RoundReport:
    """Return an honest round: the champion trusted its signal too much, the candidate does not."""
    rng = np.random.default_rng(41)
    sets = [task(rng, 300) for _ in range(2)]
    pairs = [(read(*rows), read(*rows, trust=2.5)) for rows in sets]
    return a_round(*pairs)


@pytest.mark.parametrize("name", list(GATES))
def test_every_gate_we_ship_conforms(name: str) -> None:
    """Users run the same check on theirs."""
    check_gate(GATES[name])


def test_an_honest_improvement_is_promoted(better: RoundReport) -> None:
    """Every gate of the task speaks; the only silent one has no slices to judge."""
    decision = decide(better)
    assert decision.outcome == "promote"
    others = HEADLINES - {"accuracy"}
    assert [verdict.gate for verdict in decision.verdicts] == [g for g in GATES if g not in others]
    assert outcomes(better).pop("slices") == "not_evaluable"
    assert decision.decisive == ()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("flipped", [0.5, 0.6])
def test_a_poisoned_batch_is_refused_by_what_was_known_before(seed: int, flipped: float) -> None:
    """With 50–60 % of labels flipped the hold-out is flipped too: only the frozen sets can tell."""
    rng = np.random.default_rng(seed)
    signal, labels = task(rng, 200)
    poisoned = np.where(rng.random(200) < flipped, 1 - labels, labels)
    # What maximises the likelihood on flipped labels: trust the signal by the share unflipped.
    learned = np.log((1 - flipped) / flipped) / 4
    new = (read(signal, poisoned, trust=learned), read(signal, poisoned))
    old_signal, old_labels = task(rng, 300)
    old = (read(old_signal, old_labels, trust=learned), read(old_signal, old_labels))
    report = a_round(new, old)
    found = outcomes(report)
    assert report.holdout.candidate.nll < report.holdout.reference.nll
    assert found["nll"] == "pass"
    assert found["forgetting"] == "fail"
    assert decide(report).outcome == "refuse"


def test_growing_doubt_is_forgetting_before_accuracy_falls(rng: np.random.Generator) -> None:
    """The NLL half of the gate: no label tips over, yet the candidate has unlearned its trust."""
    new, (signal, labels) = task(rng, 300), task(rng, 300)
    report = a_round(
        (read(*new), read(*new, trust=2.5)),
        (read(signal, labels, trust=0.25), read(signal, labels)),
    )
    verdict = GATES["forgetting"](report)
    assert verdict.outcome == "fail"
    assert verdict.reason.startswith("NLL on movie-1 rose")
    assert report.regression[0].differences["accuracy"].mean == pytest.approx(0.0, abs=0.02)
    assert GATES["forgetting"](report, nll_margin=1.0).outcome == "pass"


def test_equal_candidates_are_not_refused_by_the_noise_of_a_small_set() -> None:
    """One bootstrap sd on top of the margin: equals that disagree on rows rarely fail forgetting.

    Both models read the same signal through different noise, 300 rows, 24 rounds. A bare margin of
    2 points fails more of them.
    """
    failures, bare = 0, 0
    for seed in range(24):
        rng = np.random.default_rng(seed)
        signal, labels = task(rng, 300, noise=0.9)
        blurred = [read(signal + 0.44 * rng.normal(size=300), labels, noise=1.0) for _ in range(2)]
        report = a_round((blurred[0], blurred[1]), (blurred[0], blurred[1]))
        failures += GATES["forgetting"](report).outcome == "fail"
        bare += GATES["forgetting"](report, sds=0.0).outcome == "fail"
    assert failures <= 2
    assert bare >= failures + 2


def test_a_worse_candidate_fails_every_gate_on_quality(better: RoundReport) -> None:
    """None is short-circuited: the report of a refusal is complete."""
    rng = np.random.default_rng(42)
    sets = [task(rng, 300) for _ in range(2)]
    worse = a_round(*[(read(-rows[0], rows[1], trust=3.0), read(*rows)) for rows in sets])
    decision = decide(worse)
    assert decision.outcome == "refuse"
    assert [verdict.gate for verdict in decision.decisive] == [
        "nll",
        "accuracy",
        "forgetting",
        "calibration",
        "rejection",
    ]
    for verdict in decision.decisive:
        assert verdict.value is not None
        assert verdict.limit is not None
        assert verdict.value > verdict.limit


def test_the_reason_has_the_numbers_a_person_needs(rng: np.random.Generator) -> None:
    """Before, after, margin and noise, in one line."""
    new, old = task(rng, 200), task(rng, 200)
    report = a_round((read(*new), read(*new)), (read(-old[0], old[1]), read(*old)))
    verdict = decide(report, {"forgetting": {"nll_margin": 99.0}}).verdicts[2]
    found = report.regression[0]
    drop = found.reference.accuracy - found.candidate.accuracy
    assert verdict.reason == (
        f"accuracy on movie-1 fell {drop:.3f} ({found.reference.accuracy:.3f} → "
        f"{found.candidate.accuracy:.3f}), allowed 0.02 + 1 bootstrap sd "
        f"{found.differences['accuracy'].sd:.3f}"
    )


def test_a_bad_slice_is_seen_though_the_whole_looks_well(rng: np.random.Generator) -> None:
    """A third of the rows guessed, the rest all right: accuracy passes, the slice does not."""
    signal, labels = task(rng, 600)
    rare = np.arange(600) % 3 == 0
    after = np.where(rare, rng.permutation(signal), 3.0 * (2 * labels - 1))
    holdout = compare("holdout", read(after, labels), read(signal, labels))
    report = build_report(Evidence(("a", "b"), holdout, slices=("kind",), posterior=HEALTHY))
    verdict = GATES["slices"](report)
    assert GATES["accuracy"](report).outcome == "pass"
    assert verdict.outcome == "fail"
    assert "kind = rare" in verdict.reason


def test_a_small_slice_claims_nothing(rng: np.random.Generator) -> None:
    """Below 30 rows a slice is passed over, and it does not hide the others."""
    scored = read(*task(rng, 60))
    report = build_report(
        Evidence(("a", "b"), compare("holdout", scored, scored), slices=("kind",))
    )
    assert GATES["slices"](report).outcome == "pass"
    verdict = GATES["slices"](report, min_rows=100)
    assert verdict.outcome == "not_evaluable"
    assert "100 needed" in verdict.reason


def test_calibration_is_judged_against_chance_and_champion(rng: np.random.Generator) -> None:
    """Overconfidence fails, unless the champion was no better; small sets get their noise."""
    signal, labels = task(rng, 1000)
    sure, honest = read(signal, labels, trust=3.0), read(signal, labels)
    gate = GATES["calibration"]
    assert gate(a_round((sure, honest))).outcome == "fail"
    assert gate(a_round((sure, sure))).outcome == "pass"
    assert gate(a_round((honest, sure))).outcome == "pass"
    assert gate(a_round((sure, sure)), cap=0.02, cap_rows=1000).outcome == "fail"
    assert gate(a_round((sure, sure)), cap=0.02).outcome == "pass"


def test_a_language_model_is_as_well_calibrated_as_what_it_is_compared_with(
    rng: np.random.Generator,
) -> None:
    """In nats no cap fits every text: in its first round the base model is the yardstick."""
    said = np.empty((1, 2400, 4))
    said[..., 1], said[..., 2:] = 20.0, 3.0
    said[..., 0] = -said[..., 1] * (3.0 + 0.3 * rng.normal(size=2400))
    honest, sure = Texts(said), Texts(said - np.array([10.0, 0, 0, 0]))
    surer = Texts(said - np.array([16.0, 0, 0, 0]))
    gate = GATES["calibration"]

    def of(candidate: Texts, champion: Texts | None, base: Texts | None = None) -> Verdict:
        known = None if base is None else base.said
        return gate(build_report(Evidence((), texts(candidate, champion), known=known)))

    def texts(candidate: Texts, champion: Texts | None) -> Comparison:
        rows = pd.DataFrame({"text": ["some words"] * candidate.rows})
        return Comparison("holdout", rows, candidate, champion)

    assert of(honest, sure).outcome == "pass"
    assert of(surer, sure).outcome == "fail"
    # Half a nat is five times the cap of shares, on more rows than it asks for.
    assert of(sure, surer).outcome == "pass"
    assert of(sure, None, base=surer).outcome == "pass"
    refused = of(sure, None, base=honest)
    assert refused.outcome == "fail"
    assert "baseline's plus its sd" in refused.reason
    worse = build_report(Evidence((), texts(surer, honest)))
    assert GATES["rejection"](worse).outcome == "fail"


def test_the_first_candidate_must_beat_knowing_the_label_shares(rng: np.random.Generator) -> None:
    """No champion: a reader of the signal is promoted, a confident guesser is refused."""
    signal, labels = task(rng, 200)
    first = decide(a_round((read(signal, labels), None), cost={"state_bytes": 1e6}))
    assert first.outcome == "promote"
    assert {v.gate for v in first.verdicts if v.outcome == "not_evaluable"} == {
        "forgetting",
        "slices",
        "budget",
    }
    guess = read(rng.permutation(signal), labels)
    assert decide(a_round((guess, None))).outcome == "refuse"


def test_too_few_rows_hold_the_candidate_for_a_person(rng: np.random.Generator) -> None:
    """Under 50 hold-out rows the NLL claims nothing, and without it nothing is promoted."""
    rows = task(rng, 49)
    decision = decide(a_round((read(*rows), read(*rows, trust=2.5))))
    assert decision.outcome == "hold"
    assert [verdict.gate for verdict in decision.decisive] == ["nll"]
    assert "49 rows" in decision.decisive[0].reason


@pytest.mark.parametrize(
    ("health", "outcome", "told"),
    [
        ({}, "not_evaluable", "nothing"),
        ({**HEALTHY, "finite": False}, "fail", "not finite"),
        ({**HEALTHY, "rho_travel_met": False}, "fail", "rho travel"),
        ({**HEALTHY, "rho_travel_met": None}, "pass", "0.4"),
        ({**HEALTHY, "share_floor": 0.6}, "fail", "60% of the σ sit at the floor"),
        ({**HEALTHY, "std_ratio_median": 0.001}, "fail", "0.001"),
        ({**HEALTHY, "std_ratio_median": 5.0}, "fail", "5"),
        ({**HEALTHY, "std_ratio_median": float("nan")}, "fail", "nan"),
        ({"finite": True, "std_ratio_median": None}, "pass", "no Gaussian weights"),
    ],
)
def test_the_posteriors_health(
    better: RoundReport, health: Mapping[str, Any], outcome: str, told: str
) -> None:
    """Collapse, runaway, clamped σ and too short a fit are refused; silence is not health."""
    verdict = GATES["posterior"](replace(better, posterior=health))
    assert verdict.outcome == outcome
    assert told in verdict.reason


def test_a_silent_posterior_holds_the_candidate(better: RoundReport) -> None:
    """A required gate that cannot be evaluated asks for a person."""
    assert decide(replace(better, posterior={})).outcome == "hold"


def test_drift_passes_and_extreme_drift_holds(better: RoundReport) -> None:
    """Learning from drift is the point of a round; only the unheard-of asks for a person."""
    columns = {"embedding": {"drifted": True}}
    drifted = {**CALM, "drifted": True, "share": 0.6, "columns": columns}
    assert decide(replace(better, drift=drifted)).outcome == "promote"
    extreme = {**drifted, "extreme": True, "reasons": ["label shares moved by 0.47"]}
    decision = decide(replace(better, drift=extreme))
    assert decision.outcome == "hold"
    assert "label shares moved" in decision.decisive[0].reason
    unknown = {**CALM, "drifted": None, "extreme": None, "share": None}
    assert outcomes(replace(better, drift=unknown))["drift"] == "not_evaluable"
    assert outcomes(replace(better, drift=None))["drift"] == "not_evaluable"


def test_a_failure_outweighs_a_hold(better: RoundReport) -> None:
    """Refused is refused: no person is asked about a candidate that fails anyway."""
    extreme = {**CALM, "extreme": True, "reasons": ["x"]}
    report = replace(better, drift=extreme, posterior={"finite": False})
    assert decide(report).outcome == "refuse"


def test_the_budget_is_relative_with_a_little_slack(better: RoundReport) -> None:
    """Twice the latency or the size fails; two milliseconds of neighbours' load do not."""
    gate = GATES["budget"]
    assert gate(replace(better, cost={**COST, "milliseconds_per_row": 12.0})).outcome == "fail"
    assert gate(replace(better, cost={**COST, "state_bytes": 2e6})).outcome == "fail"
    tiny = {**COST, "milliseconds_per_row": 1.9, "champion_milliseconds_per_row": 0.2}
    assert gate(replace(better, cost=tiny)).outcome == "pass"
    assert gate(replace(better, cost={"seconds": 1.0})).outcome == "not_evaluable"


def test_settings_override_limits_and_switch_gates_off(better: RoundReport) -> None:
    """A limit applies to its gate only; a gate switched off is named in the decision."""
    strict = decide(better, {"nll": {"margin": -9.0}, "budget": False})
    assert strict.outcome == "refuse"
    assert strict.verdicts[0].limit == -9.0
    assert strict.switched_off == ("budget",)
    assert "budget" not in {verdict.gate for verdict in strict.verdicts}
    assert decide(better, {"nll": True}).outcome == "promote"


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"accurracy": {"margin": 0.1}}, UnknownName, "Did you mean 'accuracy'"),
        ({"accuracy": {"margins": 0.1}}, StreamFileError, "Did you mean 'margin'"),
        ({"accuracy": {"margin": "0.1"}}, StreamFileError, "not a number"),
        ({"accuracy": {"margin": True}}, StreamFileError, "not a number"),
        ({"accuracy": {"margin": float("nan")}}, StreamFileError, "not a number"),
        ({"accuracy": 0.1}, StreamFileError, "a table of limits"),
        ({"drift": {"limit": 1.0}}, StreamFileError, "no limits at all"),
    ],
)
def test_settings_nobody_understands_are_refused_early(
    settings: Any, error: type[Exception], told: str
) -> None:
    """A typo must not leave a gate at its default without saying so."""
    with pytest.raises(error, match=told):
        check_settings(settings)


def only_on_sundays(report: RoundReport, *, limit: float = 1.0) -> Verdict:
    """Hold everything: a gate of a user's own."""
    return Verdict("sundays", "hold", limit, None, "it is not Sunday")


def test_a_gate_of_ones_own_is_named_by_its_path(better: RoundReport) -> None:
    """`package.module:attribute` adds a gate after the built-in ones, with limits like theirs."""
    check_gate(only_on_sundays)
    path = f"{__name__}:only_on_sundays"
    decision = decide(better, {path: {"limit": 3.0}})
    assert decision.outcome == "hold"
    assert decision.verdicts[-1] == Verdict("sundays", "hold", 3.0, None, "it is not Sunday")


def test_a_careless_gate_does_not_conform() -> None:
    """The check has teeth: it finds the exception, the missing reason and the NaN."""

    def trusting(report: RoundReport) -> Verdict:
        mean = report.holdout.differences["nll"].mean
        return Verdict("trusting", "pass", mean, None, "fine")

    def terse(report: RoundReport) -> Verdict:
        return Verdict("terse", "pass", None, None, "")

    def not_a_number(report: RoundReport) -> Verdict:
        return Verdict("nan", "pass", report.holdout.candidate.nll, None, "fine")

    def forgetful(report: RoundReport) -> Verdict:
        report.posterior.pop("finite", None)  # type: ignore[attr-defined]
        return Verdict("forgetful", "pass", None, None, "fine")

    for gate, complaint in (
        (trusting, "raised KeyError"),
        (terse, "no reason"),
        (not_a_number, "not JSON"),
        (forgetful, "changes its report"),
    ):
        example_reports.cache_clear()
        with pytest.raises(AssertionError, match=complaint):
            check_gate(gate)
    example_reports.cache_clear()


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "pass"),
        ({"kl_ratio": 2.1}, "hold"),
        ({"kl_ratio": 2.1, "kl": 1e-4}, "pass"),
        ({"rank_gap": -0.3}, "hold"),
        ({"kl": float("nan"), "kl_ratio": float("nan")}, "not_evaluable"),
    ],
)
def test_a_predictor_far_from_its_posterior_holds_the_candidate(
    better: RoundReport, change: dict[str, Any], outcome: str
) -> None:
    """The candidate may be good: what answers for it is not, so a person looks."""
    found = replace(better, fidelity=FAITHFUL | change)
    verdict = GATES["fidelity"](found)
    assert verdict.outcome == outcome
    assert "calibrated" in verdict.reason or outcome == "not_evaluable"


def test_draws_of_all_weights_approximate_nothing(better: RoundReport) -> None:
    """Their distance from the gold is the noise of a number of draws somebody chose."""
    far = FAITHFUL | {"predictor": "full", "kl_ratio": 9.0, "kl": 0.5, "rank_gap": -0.9}
    assert GATES["fidelity"](replace(better, fidelity=far)).outcome == "pass"
    unsaid = replace(better, fidelity=far | {"kl": float("nan")})
    assert GATES["fidelity"](unsaid).outcome == "not_evaluable"
    unmeasured = GATES["fidelity"](replace(better, fidelity={"predictor": "full"}))
    assert (unmeasured.outcome, unmeasured.value) == ("pass", None)


def test_fidelity_is_among_the_rounds_metrics(better: RoundReport) -> None:
    """The chosen predictor's numbers, and beside them those of what else was measured."""
    metrics = better.metrics()
    assert metrics["fidelity/kl_ratio"] == 0.5
    assert metrics["fidelity/full/kl_ratio"] == 0.75
    assert "fidelity/predictor" not in metrics
    assert GATES["fidelity"](replace(better, fidelity=None)).outcome == "not_evaluable"
