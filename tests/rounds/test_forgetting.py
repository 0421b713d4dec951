from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bhpeft.data.batch import open_batch
from bhpeft.learning.finishes import Selection
from bhpeft.learning.state import AdapterState
from bhpeft.registry import Registry
from bhpeft.rounds.forgetting import CRITICAL, Signal, prequential, rhos
from bhpeft.rounds.intake import take_in
from bhpeft.rounds.memory import Memory
from bhpeft.rounds.spec import model_of
from bhpeft.rounds.training import Trained, train
from bhpeft.stream import Adaptive
from tests.rounds.conftest import Chain, begin
from tests.rounds.reviews import reviews

DRIFT, CALM = Signal(0.5, 9.0), Signal(0.01, 0.3)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A stream that has learned one batch; a second is like it, a third has its labels flipped."""
    chain = begin(Registry("sqlite://"), tmp_path_factory.mktemp("forgetting"), "forgetting")
    # Enough to have learned what the words mean, so that flipping them is a surprise.
    plan = chain.stream.learning.plan | {"epochs": 4, "learning_rate": 1e-2}
    data = chain.stream.data.model_copy(update={"selection": 0.3, "memory_rows": 60})
    chain = chain.with_learning(plan=plan, adaptive=Adaptive(drifted=0.5)).changed(data=data)
    for number, batch_id in enumerate(("b1", "b2", "b3")):
        rows = {"rows": 240}
        labels = reviews(batch_id, **rows)["label"].map({"good": "bad", "bad": "good"})
        spoilt: dict[str, Any] = {"label": labels} if batch_id == "b3" else {}
        chain.deliver(batch_id, day=number, **rows, **spoilt)
    return chain


def taken(chain: Chain, batch_id: str, parent: AdapterState | None) -> tuple[Any, Any]:
    batch = open_batch(chain.stream.landing / chain.stream.name / batch_id)
    model = model_of(chain.stream, chain.contract, parent)
    return model, take_in(chain.stream, batch, chain.contract, model, chain.stream.cache)


@pytest.fixture(scope="module")
def first(chain: Chain) -> tuple[AdapterState, Memory]:
    """The champion after one batch, and what its chain remembers."""
    from bhpeft.learning.predict import Predictor

    model, intake = taken(chain, "b1", None)
    state = train(chain.stream, intake, model, None).state
    rows = intake.holdout.assign(_batch="b1").reset_index(drop=True)
    texts = rows["text"].tolist()
    predictor = Predictor(model, state)
    return state, Memory(rows, predictor.probabilities(texts), predictor.embeddings(texts))


@pytest.fixture
def learn(chain: Chain, first: tuple[AdapterState, Memory]) -> Callable[[str], Trained]:
    def learned(batch_id: str, stream: Any = None) -> Trained:
        model, intake = taken(chain, batch_id, first[0])
        return train(stream or chain.stream, intake, model, first[0], None, first[1])

    return learned


def test_a_batch_like_the_last_is_learned_once_with_the_usual_rho(
    learn: Callable[[str], Trained],
) -> None:
    found = learn("b2")
    assert found.state.spec.forgetting == 1.0
    assert found.forgetting["forgetting/z"] < CRITICAL
    assert not any("selection_nll" in name for name in found.forgetting)


def test_a_flipped_batch_is_learned_twice_and_the_better_on_selection_rows_is_kept(
    learn: Callable[[str], Trained],
) -> None:
    """The signal is read before any training, and what was tried is logged."""
    found = learn("b3")
    said = found.forgetting
    assert said["forgetting/z"] > CRITICAL
    assert said["forgetting/gap"] > 0
    losses = {rho: said[f"forgetting/selection_nll_at_{rho:g}"] for rho in (1.0, 0.5)}
    assert found.state.spec.forgetting == min(losses, key=losses.__getitem__)
    assert losses[1.0] != losses[0.5]
    assert len(found.state.spec.absorbed) == 2


def test_without_the_table_nothing_is_tried_and_nothing_is_logged(
    chain: Chain, learn: Callable[..., Trained]
) -> None:
    fixed = chain.with_learning(adaptive=None).stream
    assert dict(learn("b3", fixed).forgetting) == {}


def test_a_second_rho_is_tried_only_when_the_data_drift(chain: Chain) -> None:
    stream = chain.with_learning(forgetting=0.9, adaptive=Adaptive(drifted=0.4)).stream
    assert rhos(stream, DRIFT) == (0.9, 0.4)
    assert rhos(stream, CALM) == rhos(stream, None) == (0.9,)
    assert rhos(chain.with_learning(adaptive=None).stream, DRIFT) == (1.0,)


def test_the_signal_is_a_difference_of_means_over_its_standard_error(
    chain: Chain, first: tuple[AdapterState, Memory]
) -> None:
    """Against the formula on the same numbers, and None where the rows are too few."""
    from bhpeft.learning.predict import Predictor

    state, memory = first
    model, intake = taken(chain, "b2", state)
    texts = intake.selection["text"].tolist()
    targets = (intake.selection["label"] == "good").to_numpy().astype(np.int64)
    found = prequential(model, state, memory, Selection(texts, targets), chain.contract)
    assert found is not None
    new = Predictor(model, state).probabilities(texts).mean(0)[np.arange(len(texts)), targets]
    known = (memory.rows["label"] == "good").to_numpy().astype(np.int64)
    old = memory.probabilities.mean(0)[np.arange(len(known)), known]
    a, b = -np.log(new), -np.log(old)
    assert found.gap == pytest.approx(a.mean() - b.mean())
    error = np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    assert found.z == pytest.approx((a.mean() - b.mean()) / error)
    few = replace(memory, rows=memory.rows[:5])
    assert prequential(model, state, few, Selection(texts, targets), chain.contract) is None
