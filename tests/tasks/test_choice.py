from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM

from bhpeft.data.contract import Contract, load_contract
from bhpeft.data.land import land
from bhpeft.data.rows import read_rows
from bhpeft.errors import ConfigError, ContractFileError, ContractViolation, ModelError
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.answer_head import NEVER
from bhpeft.models.encode import collate, encode
from bhpeft.models.load import load_base
from bhpeft.models.packing import packed, parts_of
from bhpeft.rounds.asked import inputs_of, options_of
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


LISTED = CONTRACT.replace(
    """\
      - {name: a, logicalType: string, customProperties: [{property: bhpeft.role, value: option}]}
      - {name: b, logicalType: string, customProperties: [{property: bhpeft.role, value: option}]}
      - {name: c, logicalType: string, customProperties: [{property: bhpeft.role, value: option}]}
""",
    """\
      - name: options
        logicalType: array
        items: {logicalType: string}
        required: true
        customProperties: [{property: bhpeft.role, value: options}]
""",
)


def listed(batch_id: str, rows: int = 60) -> pd.DataFrame:
    """Return questions with their options in one column of lists."""
    frame = questions(batch_id, rows)
    options = [[one for one in row if one is not None] for row in frame[["a", "b", "c"]].to_numpy()]
    return frame.drop(columns=["a", "b", "c"]).assign(options=options)


def test_options_may_be_one_column_of_lists(tmp_path: Path) -> None:
    """They land, come back in the types of the contract, and are asked like those in columns."""
    contract = load_contract(_written(tmp_path, LISTED), task("choice").needs)
    assert (contract.options, contract.option_list) == (("options",), True)
    listed("q").to_parquet(tmp_path / "q.parquet", index=False)
    batch = land(tmp_path / "q.parquet", tmp_path / "landing", contract, "q")
    rows = pd.concat([chunk.to_pandas() for chunk in read_rows(batch, contract)])
    plain = load_contract(_written(tmp_path, CONTRACT), task("choice").needs)
    assert inputs_of(Choice(), rows, contract) == inputs_of(Choice(), questions("q", 60), plain)
    known = np.zeros(60, dtype=np.int64)
    there = options_of(rows, contract, known)
    assert there.tolist() == options_of(questions("q", 60), plain, known).tolist()


def test_json_lines_can_hold_lists_of_options(tmp_path: Path) -> None:
    contract = load_contract(_written(tmp_path, LISTED), task("choice").needs)
    listed("q").to_json(tmp_path / "q.jsonl", orient="records", lines=True)
    assert land(tmp_path / "q.jsonl", tmp_path / "landing", contract, "q").rows == 60


def test_a_list_that_is_too_long_or_has_a_gap_is_quarantined_row_by_row(tmp_path: Path) -> None:
    contract = load_contract(_written(tmp_path, LISTED), task("choice").needs)
    frame = listed("q")
    for row, options in ((1, ["a", None, "b"]), (4, ["a", "b", "c", "d"]), (7, ["a"])):
        frame.at[row, "options"] = options
    frame.to_parquet(tmp_path / "q.parquet", index=False)
    with pytest.raises(ContractViolation) as refused:
        land(tmp_path / "q.parquet", tmp_path / "landing", contract, "q")
    found = {reason["check"]: reason["row_numbers"] for reason in refused.value.reasons}
    assert found["options"] == [1, 4, 7]


def test_a_list_is_nothing_but_options(tmp_path: Path) -> None:
    text = LISTED.replace("value: options}", "value: slice}")
    with pytest.raises(ContractFileError, match="is a list, which only options may be"):
        load_contract(_written(tmp_path, text), task("choice").needs)


@pytest.mark.parametrize("per_token", [True, False])
def test_an_answer_is_as_likely_as_the_language_model_says_after_the_question(
    tmp_path: Path, per_token: bool
) -> None:
    """One sequence an answer in transformers' own model, summed over the answer's tokens alone."""
    config = tiny.llama_config()
    config.tie_word_embeddings = True
    whole = tiny.seeded(LlamaForCausalLM, config)
    whole.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    chosen = Choice(scoring="answers", per_token=per_token)
    base = load_base(str(tmp_path / "base"))
    model = AdaptedModel(base, [], 3, generator=tiny.generator(), head=chosen.head("ABC"))
    options = [["w5 w6", "w9"], ["w7", "w8 w10 w11", "w12 w13"]]
    asked = chosen.inputs(["w20 w21 w22", "w30"], options, "ABC")
    with torch.no_grad():
        found = model.logits(collate(base.tokenizer, asked, 16))
    assert float(found[0, 2]) == NEVER
    for row, question in enumerate(("w20 w21 w22 Answer:", "w30 Answer:")):
        for at, option in enumerate(options[row]):
            begin = len(base.tokenizer(question)["input_ids"])
            ids = torch.tensor([base.tokenizer(f"{question} {option}")["input_ids"]])
            with torch.no_grad():
                logs = whole(ids).logits.log_softmax(-1)[0, begin - 1 : -1]
            said = logs.gather(-1, ids[0, begin:, None])
            expected = said.mean() if per_token else said.sum()
            assert float(found[row, at]) == pytest.approx(float(expected), rel=1e-4)


def test_a_long_question_loses_its_beginning_and_no_answer() -> None:
    tokenizer = tiny.tokenizer()
    asked = packed([" ".join(["w4"] * 30 + ["w5"]), "w6 w7", "w8"])
    question, *answers = parts_of(encode(tokenizer, [asked], 10)[0], tiny.PAD)
    assert (len(question), question[-1], answers) == (8, 5, [[6, 7], [8]])


def test_whole_answers_are_learned_and_each_draw_says_its_own(tmp_path: Path) -> None:
    """Folded draws equal single ones, and a few steps make the right answers likelier."""
    chosen = Choice(scoring="answers")
    base = tiny.base("llama")
    base.model.config.tie_word_embeddings = True
    model = AdaptedModel(
        base, [method("lora", {"rank": 2})], 3, generator=tiny.generator(), head=chosen.head("ABC")
    )
    assert model.frozen_layers == 0
    asked = chosen.inputs(["w20", "w21", "w22 w23"], [["w5", "w6 w7", "w8"]] * 3, "ABC")
    minibatch = collate(base.tokenizer, asked, 16)
    drawn = tiny.draw(model.shapes, draws=2)
    with torch.no_grad(), model.swapped(drawn):
        both = model.logits(minibatch)
    for at in range(2):
        with torch.no_grad(), model.swapped({name: w[at] for name, w in drawn.items()}):
            torch.testing.assert_close(model.logits(minibatch), both[3 * at : 3 * at + 3])
    with torch.no_grad(), model.swapped(tiny.draw(model.shapes, draws=3)):
        apart = model.logits(minibatch, per_example=True)
    assert apart.shape == (3, 3)


def test_a_scoring_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"scoring = 'answer'.*'labels' or 'answers'"):
        task("choice", {"scoring": "answer"})
