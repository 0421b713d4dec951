"""Whole rounds of every task: landed, learned, judged by its own gates, promoted, and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bhpeft.data.contract import load_contract
from bhpeft.data.land import land
from bhpeft.errors import ContractFileError, ContractViolation, StateError
from bhpeft.judgement.gates import check_settings
from bhpeft.learning.predict import Predictor
from bhpeft.registry import Registry
from bhpeft.rounds.labels import in_learned_order
from bhpeft.rounds.spec import model_of
from bhpeft.stream import read_stream
from bhpeft.tasks.section import Predicted
from tests import tiny
from tests.learning import problems
from tests.rounds.conftest import Chain, Steps, begin
from tests.rounds.reviews import CONTRACT, reviews
from tests.tasks.questions import CONTRACT as QUESTIONS
from tests.tasks.questions import questions
from tests.tasks.test_choice import LISTED

# Every gate judges these small sets and none refuses: what is tried is that they can judge.
LENIENT: dict[str, Any] = {
    "nll": {"margin": 99.0, "min_rows": 10.0},
    "forgetting": {"accuracy_margin": 99.0, "nll_margin": 99.0, "min_rows": 5.0},
    "slices": {"margin": 99.0, "min_rows": 2.0},
    "calibration": {"cap": 1.0, "sds": 99.0, "min_rows": 10.0},
    "rejection": {"margin": 99.0, "min_rows": 10.0},
    "budget": False,
    "fidelity": False,
    "drift": {},
}

STARS = CONTRACT.replace("name: label", "name: stars").replace(
    """        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: label}]
        quality:
          - {type: library, metric: invalidValues, arguments: {validValues: [bad, good]},
             mustBe: 0}
""",
    """        logicalType: number
        required: true
        customProperties: [{property: bhpeft.role, value: target}]
""",
)


def stars(batch_id: str, rows: int = 150) -> pd.DataFrame:
    """Return reviews with one to five stars, two decimals of noise in them."""
    frame = reviews(batch_id, rows)
    noise = np.random.default_rng(len(batch_id)).normal(size=rows)
    good = frame.pop("label") == "good"
    return frame.assign(stars=np.where(good, 4.5, 1.5) + 0.3 * noise)


def of_task(chain: Chain, contract: str, **changes: Any) -> Chain:
    """Return the chain with another task's contract."""
    chain.stream.contract.write_text(contract, encoding="utf-8")
    return chain.changed(**changes)


def deliver(chain: Chain, frame: pd.DataFrame, batch_id: str, validate: bool = True) -> Any:
    source = chain.desk / f"{batch_id}.parquet"
    frame.to_parquet(source, index=False)
    stream = chain.stream
    contract = load_contract(stream.contract, stream.task.value.needs)
    return land(source, stream.landing, contract, stream.name, batch_id, validate=validate)


@pytest.fixture(scope="module")
def rated(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A stream of ratings that has learned two batches."""
    chain = begin(registry, tmp_path_factory.mktemp("rated"), "rated")
    gates = {**LENIENT, "rmse": {"margin": 99.0, "min_rows": 10.0}}
    data = chain.stream.data.model_copy(update={"holdout": 0.45, "memory_rows": 100})
    chain = of_task(chain, STARS, task=Predicted(name="regression"), gates=gates, data=data)
    for batch_id in ("r1", "r22"):
        batch = deliver(chain, stars(batch_id), batch_id)
        outcome = chain.learn(batch, Steps(figures=batch_id == "r22"))
        assert outcome.decision == "promoted", outcome.reason
    return chain


def test_a_round_of_ratings_is_judged_by_its_own_figures(rated: Chain) -> None:
    """The RMSE's gate speaks and the accuracy's does not; every verdict is reached."""
    second = rated.registry.version("rated", 2)
    run = rated.registry.connection.client.get_run(second.run_id)
    metrics = run.data.metrics
    for name in ("rmse", "mae", "r2", "nll", "coverage", "interval_width", "calibration_error"):
        assert np.isfinite(metrics[f"holdout/{name}"]), name
        assert np.isfinite(metrics[f"champion/{name}"]), name
    assert "holdout/accuracy" not in metrics
    assert np.isfinite(metrics["regression/r1/rmse_rise"])
    assert np.isfinite(metrics["prequential/squared_error_memory"])
    assert metrics["drift/column/label"] >= 0
    table = rated.registry.connection.client.get_model_version("rated", "2").description
    assert "| rmse | ✓ pass" in table
    assert "| accuracy |" not in table
    for gate in ("nll", "forgetting", "slices", "calibration", "rejection", "drift"):
        assert f"| {gate} | ✓ pass" in table, gate


def test_the_units_are_the_first_rounds_and_stay(rated: Chain) -> None:
    """Another batch's mean would change what every weight means."""
    first, second = rated.state(1).spec, rated.state(2).spec
    assert first.tally == second.tally
    assert first.tally == pytest.approx((3.0, 1.5), abs=0.3)


def test_the_champion_predicts_ratings_through_mlflow(rated: Chain) -> None:
    """The signature is the task's."""
    frame = rated.registry.load("rated").predict(pd.DataFrame({"text": ["a lovely song"]}))
    assert list(frame.columns) == ["value", "std", "epistemic_std", "low", "high", "abstain"]
    direct = Predictor.load(rated.desk / "v2").predict(["a lovely song"])
    assert frame["value"][0] == pytest.approx(direct["value"][0], rel=1e-5)


def test_an_infinite_rating_is_quarantined_with_its_row(rated: Chain) -> None:
    spoilt = stars("r3")
    spoilt.loc[4, "stars"] = np.inf
    with pytest.raises(ContractViolation, match="a finite number"):
        deliver(rated, spoilt, "r3")


def test_a_chain_may_not_change_its_task(rated: Chain) -> None:
    """Its head would mean something else; the contract says so first."""
    classes = rated.changed(task=Predicted(name="classification"))
    with pytest.raises(ContractFileError, match=r"the role 'target'"):
        load_contract(classes.stream.contract, classes.stream.task.value.needs)
    elsewhere = rated.desk / "classes.yaml"
    elsewhere.write_text(CONTRACT, encoding="utf-8")
    with pytest.raises(StateError, match="task is not the champion's"):
        model_of(classes.stream, load_contract(elsewhere), rated.state(2))


def test_the_ratings_stream_that_ships_reads_the_demos_rows() -> None:
    """Its contract, its task and its gates are known."""
    root = Path(__file__).parents[2]
    stream = read_stream(root / "deploy" / "streams" / "ratings.toml", root)
    contract = load_contract(stream.contract, stream.task.value.needs)
    assert (contract.text, contract.label, contract.labels) == ("text", "rating", ())
    check_settings(stream.gates)


SHADES = CONTRACT.replace("validValues: [bad, good]", "validValues: [mixed, bad, good]").replace(
    "version: 1.0.0", "version: 1.1.0"
)


def mixed(batch_id: str, rows: int = 150) -> pd.DataFrame:
    """Return reviews of which a third say both, with a label of their own."""
    frame = reviews(batch_id, rows)
    both = np.arange(rows) % 3 == 0
    frame.loc[both, "text"] = [f"neither nor, {batch_id} {i}" for i in np.flatnonzero(both)]
    frame.loc[both, "label"] = "mixed"
    return frame


@pytest.fixture(scope="module")
def growing(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> tuple[Chain, Any]:
    """A classifier whose second batch brings a third label, listed first by its contract."""
    chain = begin(registry, tmp_path_factory.mktemp("growing"), "growing")
    gates = {**LENIENT, "accuracy": {"margin": 99.0, "min_rows": 10.0}}
    data = chain.stream.data.model_copy(update={"replay_rows": 20, "memory_rows": 60})
    chain = chain.changed(gates=gates, data=data)
    late = deliver(chain, reviews("late"), "late")
    assert chain.learn(deliver(chain, reviews("g1"), "g1")).decision == "promoted"
    chain.stream.contract.write_text(SHADES, encoding="utf-8")
    steps = Steps()
    outcome = chain.learn(deliver(chain, mixed("g22"), "g22"), steps)
    assert outcome.decision == "promoted", outcome.reason
    return chain, (steps, late)


def test_a_new_label_is_a_new_row_and_the_old_ones_stay_where_they_are(growing: Any) -> None:
    """The head's rows are in the order the chain met the labels, whatever the contract's is."""
    chain, (steps, _) = growing
    before, after = chain.state(1), chain.state(2)
    assert before.spec.labels == ("bad", "good")
    assert after.spec.labels == ("bad", "good", "mixed")
    assert [one.labels for one in after.spec.absorbed] == [2, 3]
    parent = steps.results["prepare"].parent
    for name, shape in (("head.weight", (3, 384)), ("head.bias", (3,))):
        assert tuple(after.point[name].shape) == shape
        assert (parent.point[name][:2] == before.point[name]).all()
        assert (parent.precision[name][:2] == before.precision[name]).all()
        assert (parent.precision[name][2] == 0).all()
    assert after.spec.gauge == before.spec.gauge
    assert (parent.posterior.mean == before.posterior.mean).all()


def test_rows_from_before_a_label_are_scored_and_rehearsed_without_it(growing: Any) -> None:
    """What nobody could have said then is no answer, for either model."""
    chain, (steps, _) = growing
    memory = chain.memory(2)
    old = (memory.rows["_batch"] == "g1").to_numpy()
    assert memory.probabilities.shape[-1] == 3
    assert (memory.probabilities[:, old, 2] == 0).all()
    assert (memory.probabilities[:, ~old, 2] > 0).all()
    np.testing.assert_allclose(memory.probabilities.sum(-1), 1.0)
    trial = steps.results["examine"]
    (known,) = trial.evidence.regression
    assert (known.candidate.probabilities[..., 2] == 0).all()
    np.testing.assert_allclose(known.champion.probabilities[..., :2], chain.memory(1).probabilities)
    assert np.isfinite(trial.report.regression[0].reference.nll)
    table = steps.results["prepare"].intake.train
    parts = list(table.ordered(64))
    rehearsed = {
        int(n) for part in parts for n in part["options"][part["rows"] < 0].unique().tolist()
    }
    own = {int(n) for part in parts for n in part["options"][part["rows"] >= 0].tolist()}
    assert (rehearsed, own) == ({2}, {3})


def test_the_champion_of_before_may_say_the_new_label_of_new_rows(growing: Any) -> None:
    """Its new row is what the candidate started from, so the comparison is fair."""
    _, (steps, _) = growing
    champion = steps.results["examine"].evidence.holdout.champion
    assert (champion.probabilities[..., 2] > 0.01).all()


def test_a_batch_landed_before_the_label_existed_is_learned_without_it(growing: Any) -> None:
    """It waited while the contract grew; its rows could not say the new label."""
    chain, (_, late) = growing
    steps = Steps()
    chain.learn(late, steps)
    ready = steps.results["prepare"]
    assert ready.intake.labels == 2
    parts = list(ready.intake.train.ordered(64))
    assert {int(n) for part in parts for n in part["options"][part["rows"] >= 0]} == {2}
    assert (steps.results["examine"].evidence.holdout.candidate.probabilities[..., 2] == 0).all()


@pytest.mark.parametrize(
    ("labels", "told"),
    [("[bad, mixed]", "no good"), ("[bad, fine, mixed]", "no good, but fine")],
)
def test_a_label_taken_away_or_renamed_is_refused_by_name(
    growing: Any, tmp_path: Path, labels: str, told: str
) -> None:
    chain, _ = growing
    path = tmp_path / "c.yaml"
    path.write_text(SHADES.replace("[mixed, bad, good]", labels), encoding="utf-8")
    with pytest.raises(StateError, match=told):
        in_learned_order(load_contract(path), chain.state(2).spec)


SMOLLM2 = Path(__file__).parents[2] / ".cache" / "smollm2"


@pytest.mark.slow
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="`make setup` puts SmolLM2 into .cache/smollm2")
def test_smollm2_answers_questions_round_after_round(registry: Registry, tmp_path: Path) -> None:
    """A real language model, questions of two or three options, the real registry."""
    chain = begin(registry, tmp_path, "asked")
    chain.stream.contract.write_text(QUESTIONS, encoding="utf-8")
    model = chain.stream.model.model_copy(
        update={"base": str(SMOLLM2), "layers": 2, "max_length": 64}
    )
    data = chain.stream.data.model_copy(update={"holdout": 0.4, "replay_rows": 10})
    gates = {**LENIENT, "accuracy": {"margin": 99.0, "min_rows": 10.0}}
    chain = chain.changed(task=Predicted(name="choice"), model=model, data=data, gates=gates)
    for batch_id in ("q1", "q22"):
        steps = Steps()
        outcome = chain.learn(deliver(chain, questions(batch_id, 50), batch_id), steps)
        assert outcome.decision == "promoted", outcome.reason
    verdicts = {verdict["gate"]: verdict["outcome"] for verdict in outcome.verdicts}
    for gate in ("nll", "accuracy", "forgetting", "slices", "calibration", "rejection"):
        assert verdicts[gate] == "pass", gate
    trial = steps.results["examine"]
    two = (trial.evidence.holdout.rows["kind"] == "two").to_numpy()
    said = trial.evidence.holdout.candidate.probabilities
    assert (said[:, two, 2] == 0).all()
    assert (said[:, ~two, 2] > 0).all()
    np.testing.assert_allclose(said.sum(-1), 1.0)
    asked = pd.DataFrame(
        {
            "question": ["Which of these is an animal?"] * 2,
            "options": [["plum", "horse"], ["cow", "pear", "grape"]],
        }
    )
    frame = registry.load("asked").predict(asked)
    assert set(frame["label"]) <= {"A", "B", "C"}
    assert frame["label"][0] != "C"
    assert frame["entropy"][0] <= np.log(2) + 1e-9


def language_model(folder: Path) -> str:
    """Save a tiny causal language model and return where."""
    model = tiny.base("llama").model
    model.config.tie_word_embeddings = True
    model.save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    return str(folder / "base")


def word_questions(seed: int, rows: int = 60) -> pd.DataFrame:
    """Return questions of words, with two or three options in a list; one word is always right."""
    random = np.random.default_rng(seed)
    found = []
    for row in range(rows):
        options = [f"w{random.integers(10, 30)} w{row % 5 + 40}" for _ in range(2 + row % 2)]
        right = int(random.integers(len(options)))
        options[right] = f"w7 w{row % 5 + 40}"
        asked = f"w{random.integers(30, 60)} w{row % 30 + 30} {seed} {row}"
        found.append((asked, options, "ABC"[right], "three" if row % 2 else "two"))
    return pd.DataFrame(found, columns=["question", "options", "answer", "kind"])


@pytest.mark.parametrize("variant", ["bh_peft", "temperature"])
def test_whole_answers_in_lists_are_learned_judged_and_served(
    registry: Registry, tmp_path: Path, variant: str
) -> None:
    """Two rounds of a tiny language model; hold-out rows with their lists travel in the version."""
    chain = begin(registry, tmp_path, f"answers-{variant}")
    chain.stream.contract.write_text(LISTED, encoding="utf-8")
    asked = {"base": language_model(tmp_path), "layers": None}
    learning = {"variant": variant, "plan": chain.stream.learning.plan | {"learning_rate": 2e-2}}
    chain = chain.changed(
        task=Predicted(name="choice", settings={"scoring": "answers"}),
        model=chain.stream.model.model_copy(update=asked),
        learning=chain.stream.learning.model_copy(update=learning),
        data=chain.stream.data.model_copy(update={"holdout": 0.3, "replay_rows": 5}),
        gates=LENIENT | {"accuracy": {"margin": 99.0, "min_rows": 10.0}},
    )
    for seed in (1, 2):
        steps = Steps(figures=seed == 2)
        outcome = chain.learn(deliver(chain, word_questions(seed), f"q{seed}"), steps)
        assert outcome.decision == "promoted", outcome.reason
    assert {v["gate"]: v["outcome"] for v in outcome.verdicts}["forgetting"] == "pass"
    assert chain.state(2).spec.task_settings == {"scoring": "answers"}
    assert 1 / 3 < outcome.metrics["holdout/chance"] < 1 / 2
    assert 0 < outcome.metrics["holdout/margin"] < 1
    drift = steps.results["examine"].drift
    assert {"label", "prediction", "options", "margin", "entropy"} <= drift.columns.keys()
    assert "confidence" not in drift.columns
    files = registry.connection.client.list_artifacts(chain.runs[0].info.run_id, "figures")
    assert "figures/options.png" in {file.path for file in files}
    frame = pd.DataFrame({"question": ["w33", "w44"], "options": [["w12", "w7"], ["w7", "w9"]]})
    told = registry.load(chain.stream.name).predict(frame)
    assert set(told["label"]) <= {"A", "B"}
    assert (told["probability"] >= 0.5).all()


PLAIN = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:bhpeft:texts
name: texts
version: 1.0.0
status: active
schema:
  - name: texts
    properties:
      - name: text
        logicalType: string
        required: true
        logicalTypeOptions: {minLength: 1}
        customProperties: [{property: bhpeft.role, value: text}]
"""


def test_a_language_model_learns_texts_and_is_judged_by_its_tokens(
    registry: Registry, tmp_path: Path
) -> None:
    """No accuracy anywhere; the first round is judged against the base itself."""
    chain = begin(registry, tmp_path, "texts")
    chain.stream.contract.write_text(PLAIN, encoding="utf-8")
    asked = {"base": language_model(tmp_path), "layers": None}
    chain = chain.changed(
        task=Predicted(name="causal_lm"),
        model=chain.stream.model.model_copy(update=asked),
        data=chain.stream.data.model_copy(update={"holdout": 0.4, "memory_rows": 100}),
        gates=LENIENT,
    )
    for batch_id, seed in (("t1", 1), ("t2", 2)):
        frame = pd.DataFrame({"text": problems.texts(140, seed)})
        steps = Steps(figures=batch_id == "t2")
        outcome = chain.learn(deliver(chain, frame.drop_duplicates(), batch_id), steps)
        assert outcome.decision == "promoted", outcome.reason
        against = "baseline" if batch_id == "t1" else "champion"
        assert np.isfinite(outcome.metrics[f"{against}/perplexity"])
        assert outcome.metrics["holdout/tokens"] > 50
    verdicts = {verdict["gate"]: verdict["outcome"] for verdict in outcome.verdicts}
    for gate in ("nll", "forgetting", "calibration", "rejection", "drift"):
        assert verdicts[gate] == "pass", gate
    drift = steps.results["examine"].drift
    assert {"nll", "uncertainty", "tokens", "text_length", "embedding"} <= drift.columns.keys()
    assert drift.columns["nll"].drifted is False
    assert set(drift.calibration) == {"calibration_error", "perplexity", "nll"}
    assert drift.calibration["nll"].value == pytest.approx(outcome.metrics["champion/nll"])
    files = registry.connection.client.list_artifacts(chain.runs[0].info.run_id, "figures")
    assert "figures/texts.png" in {file.path for file in files}
    assert not {"accuracy", "rmse"} & verdicts.keys()
    assert not any("accuracy" in name for name in outcome.metrics)
    told = registry.load("texts").predict(pd.DataFrame({"text": ["w5 w6 w7"]}))
    assert told["tokens"][0] == 2
    assert told["perplexity"][0] == pytest.approx(np.exp(told["nll"][0]))
