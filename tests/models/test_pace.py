from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from bhpeft.methods.attention import EXPLICIT_TOKENS
from bhpeft.models import measured, pace, trial_pass
from bhpeft.models.arithmetic import PLAIN, Arithmetic
from bhpeft.models.pace import (
    FOLDED_ROWS,
    FOLDED_ROWS_ON_A_GPU,
    FOLDS,
    Pace,
    fastest_threads,
    fewest_rows,
    longest,
    settle_pace,
    settle_threads,
    threaded,
)
from tests import tiny

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EXPLICIT = Arithmetic("float32", "explicit")


@pytest.fixture(autouse=True)
def nothing_measured_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "KEPT", {})


def test_what_is_said_outright_is_not_measured(tmp_path: Path) -> None:
    said = Pace(1, 32, 100, laid_out=True)
    assert settle_pace(said, PLAIN, tiny.bert().config, "f", CPU, tmp_path) == said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["bert", "llama", "deberta"])
def test_what_is_left_open_is_measured_once_and_the_rest_kept(tmp_path: Path, family: str) -> None:
    """The process computes with as many threads as before: the choice is the caller's to set."""
    config = (tiny.deberta() if family == "deberta" else tiny.FAMILIES[family]()).config
    threads = torch.get_num_threads()
    found = settle_pace(Pace(threads=1), EXPLICIT, config, "f", CPU, tmp_path)
    assert found.threads == 1
    assert found.folded_rows in (*FOLDS, FOLDED_ROWS)
    assert 0 < (found.explicit_tokens or 0) <= EXPLICIT_TOKENS
    assert found.laid_out in (True, False)
    assert torch.get_num_threads() == threads
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert Pace(**kept) == found
    path.write_text(json.dumps(kept | {"folded_rows": 7}))
    measured.KEPT.clear()
    assert settle_pace(Pace(threads=1), EXPLICIT, config, "f", CPU, tmp_path).folded_rows == 7


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_a_model_of_few_positions_is_measured_like_any_other(tmp_path: Path, family: str) -> None:
    """What its products cost does not depend on how long its texts may be."""
    config = tiny.FAMILIES[family]().config
    config.max_position_embeddings = 16
    assert settle_pace(Pace(threads=1), PLAIN, config, "f", CPU, tmp_path).settled
    assert config.max_position_embeddings == 16


def test_several_threads_are_tried_up_to_the_processs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same is found when the process meanwhile computes with fewer."""
    config = tiny.bert().config
    monkeypatch.setattr(pace, "most_threads", lambda: 2)
    monkeypatch.setattr(trial_pass, "most_threads", lambda: 2)
    usual = torch.get_num_threads()
    found = settle_threads(None, config, "f", CPU, tmp_path)
    assert found in (1, 2)
    with threaded(1):
        assert settle_threads(None, config, "f", CPU, tmp_path) == found
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.get_num_threads() == usual
    assert settle_threads(3, config, "f", CPU, tmp_path) == 3


def test_nothing_is_measured_on_a_gpu(tmp_path: Path) -> None:
    found = settle_pace(Pace(), PLAIN, tiny.bert().config, "f", CUDA, tmp_path)
    assert found == Pace(torch.get_num_threads(), FOLDED_ROWS_ON_A_GPU, EXPLICIT_TOKENS, False)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_not_copied_where_they_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers count, though one is timed; asked for outright they are copied all the same."""
    config = tiny.bert().config
    one = trial_pass.linear_bytes(trial_pass.one_layer(config, PLAIN))
    assert one == 4 * sum(
        m.weight.numel()
        for m in trial_pass.one_layer(config, PLAIN).modules()
        if isinstance(m, torch.nn.Linear)
    )
    monkeypatch.setattr(trial_pass, "MOST_BYTES", config.num_hidden_layers * one - 1)
    assert trial_pass.measured(Pace(1, 32, 100), PLAIN, config).laid_out is False
    assert trial_pass.measured(Pace(1, None, 100, laid_out=True), PLAIN, config).laid_out is True


def test_the_fewest_rows_that_are_hardly_slower_win() -> None:
    """More rows are padded to a longer one."""
    assert fewest_rows({16: 1.00, 32: 1.90, 64: 3.78, 128: 7.56}) == 32
    assert fewest_rows({16: 1.00, 32: 2.00, 64: 4.5}) == 16
    assert fewest_rows({16: 1.00, 32: 1.2, 64: 1.6}) == 64


def test_other_threads_than_the_usual_have_to_be_worth_it() -> None:
    assert fastest_threads({4: 1.0, 1: 0.95, 2: 0.92}) == 4
    assert fastest_threads({4: 1.0, 1: 1.3, 2: 0.8}) == 2


def test_the_explicit_attention_is_taken_up_to_where_it_first_loses() -> None:
    assert longest({128: 0.5, 256: 0.9, 512: 1.2}, at_least=64) == 256
    assert longest({128: 1.1, 256: 0.5}, at_least=64) == 64
    assert longest({128: 0.5}, at_least=64) == 128


def test_of_one_thread_only_what_it_computes_is_counted() -> None:
    """A neighbour on the same core, here a pause, must not decide what is kept for good."""
    with threaded(1):
        began = measured.clock()
        time.sleep(0.2)
        assert measured.clock() - began < 0.15
    with threaded(2):
        began = measured.clock()
        time.sleep(0.2)
        assert measured.clock() - began >= 0.2
