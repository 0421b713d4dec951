from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from bhpeft.data.contract import Contract, load_contract
from bhpeft.data.land import land
from bhpeft.errors import ContractFileError, ContractViolation, ModelError
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.load import load_base
from bhpeft.tasks import task
from bhpeft.tasks.choice import Choice
from tests import tiny
from tests.tasks.questions import CONTRACT, questions

WORDS = ("w5", "w9", "w7")


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    return load_contract(_written(tmp_path, CONTRACT), task("choice").needs)


def _written(folder: Path, text: str) -> Path:
    path = folder / "questions.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_question_is_asked_with_the_options_it_has() -> None:
    asked = Choice().inputs(
        ["Which is wet?", "And dry? "], [["sea", "sand", "sky"], ["sea", "sand", None]], "ABC"
    )
    assert asked == [
        "Which is wet?\nA. sea\nB. sand\nC. sky\nAnswer:",
        "And dry?\nA. sea\nB. sand\nAnswer:",
    ]


@pytest.mark.parametrize("tied", [True, False])
def test_what_the_options_get_is_what_the_language_model_says(tmp_path: Path, tied: bool) -> None:
    """The same rows of the same head as in transformers' own causal language model."""
    config = tiny.llama_config()
    config.tie_word_embeddings = tied
    whole = tiny.seeded(LlamaForCausalLM, config)
    whole.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    base = load_base(str(tmp_path / "base"))
    model = AdaptedModel(base, [], 3, generator=tiny.generator(), head=Choice().head(WORDS))
    minibatch = tiny.minibatch()
    with torch.no_grad():
        found = model.logits(minibatch)
        every = whole(**minibatch).logits
    last = minibatch["attention_mask"].sum(1) - 1
    expected = every[torch.arange(len(last)), last][:, [5, 9, 7]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert dict(model.shapes) == {}


def test_a_base_or_labels_that_cannot_answer_are_refused() -> None:
    with pytest.raises(ModelError, match="no causal language model"):
        AdaptedModel(
            tiny.base("bert"), [], 3, generator=tiny.generator(), head=Choice().head(WORDS)
        )
    base = tiny.base("llama")
    base.model.config.tie_word_embeddings = True
    with pytest.raises(ModelError, match=r"one token each.*\n?.*zebra"):
        AdaptedModel(base, [], 2, generator=tiny.generator(), head=Choice().head(("w5", "zebra")))


def test_an_option_a_row_does_not_have_is_never_said(contract: Contract) -> None:
    """Probabilities are among a row's own options, and the loss has no gradient elsewhere."""
    draws = np.full((2, 2, 3), 1 / 3)
    found = Choice().restricted(draws, np.array([2, 3]))
    np.testing.assert_allclose(found[0], [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    frame = Choice().predict(found, contract.labels, 1.0)
    assert frame["entropy"].tolist() == pytest.approx([np.log(2), np.log(3)])


def test_a_contract_needs_a_column_of_options_for_each_answer(
    tmp_path: Path, contract: Contract
) -> None:
    assert contract.options == ("a", "b", "c")
    assert (contract.text, contract.label) == ("question", "answer")
    text = CONTRACT.replace("validValues: [A, B, C]", "validValues: [A, B, C, D]")
    with pytest.raises(ContractFileError, match="3 columns with the role 'option'"):
        load_contract(_written(tmp_path, text), task("choice").needs)


def test_answers_without_their_option_and_gaps_are_quarantined(
    tmp_path: Path, contract: Contract
) -> None:
    """Row 1 has no option B; row 4 answers an option it does not have."""
    frame = questions("q")
    frame.loc[1, "b"] = None
    frame.loc[3, "answer"] = "C"
    frame.to_parquet(tmp_path / "q.parquet", index=False)
    with pytest.raises(ContractViolation) as refused:
        land(tmp_path / "q.parquet", tmp_path / "landing", contract, "q")
    found = {reason["check"]: reason["row_numbers"] for reason in refused.value.reasons}
    assert 1 in found["options"]
    assert 3 in found["no such option"]
