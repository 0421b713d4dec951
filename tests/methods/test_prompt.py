from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from bhpeft.errors import ModelError
from bhpeft.methods import LoRA, Method, Prefix, Prompt, attach, swapped
from tests import tiny
from tests.methods import draws

# BatchedFallback: vmap has no rule for the CPU's flash attention and says so; it is only slow.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

NAME = "input.prompt.embedding"


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("padded", [True, False])
def test_virtual_tokens_are_tokens_that_are_taken_out_again(family: str, padded: bool) -> None:
    """With a prompt of real tokens' embeddings: the hidden states of the longer text, behind it."""
    ids = tiny.minibatch(rows=2, seed=5)["input_ids"][:1, :4]
    minibatch = tiny.minibatch(rows=3 if padded else 1)
    rows = len(minibatch["input_ids"])
    longer = {
        "input_ids": torch.cat([ids.expand(rows, -1), minibatch["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones(rows, 4), minibatch["attention_mask"]], 1).long(),
    }
    plain = tiny.FAMILIES[family]()
    expected = plain(**longer, output_hidden_states=True)
    model = tiny.FAMILIES[family]()
    sites = attach(model, [Prompt(length=4)], tiny.generator())
    with swapped(sites, {NAME: plain.get_input_embeddings()(ids)[0]}):
        found = model(**minibatch, output_hidden_states=True)
    real = minibatch["attention_mask"].bool()
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours[real], theirs[:, 4:][real], atol=1e-5, rtol=1e-5)
    assert torch.equal(found.last_hidden_state, found.hidden_states[-1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(
    "methods", [[Prompt(length=3)], [LoRA(rank=2), Prefix(length=2), Prompt(length=3)]]
)
def test_folded_draws_equal_looped_draws_and_vmap(family: str, methods: list[Method]) -> None:
    """A drawn prompt is below all layers, so everything runs once a draw."""
    draws.assert_folded_is_looped_is_vmapped(draws.adapted(family, *methods))


@pytest.mark.parametrize("only", ["prompt", "lora"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_prompt_may_be_a_point_beside_drawn_weights_and_the_other_way_round(
    family: str, only: str
) -> None:
    """A point prompt goes through the layers below the lowest drawn one once for all draws."""
    model = draws.adapted(family, Prompt(length=3), LoRA(layers=1))
    draws.assert_folded_is_looped_is_vmapped(model, only)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_pooling_reads_the_padding_or_the_prompt(family: str, pooling: str) -> None:
    """The logits are the head on the text's own hidden states, however the rows are padded."""
    model = draws.adapted(family, Prompt(length=3), pooling=pooling)
    draws.assert_padding_changes_nothing(model)
    minibatch = tiny.minibatch()
    hidden = model.model(**minibatch).last_hidden_state
    assert hidden.shape[1] == minibatch["input_ids"].shape[1]


def test_a_bert_pooler_reads_the_texts_first_token() -> None:
    """Not the first virtual one, which stands where it used to look."""
    model = tiny.bert()
    attach(model, [Prompt(length=3)], tiny.generator())
    found = model(**tiny.minibatch())
    assert torch.equal(found.pooler_output, model.pooler(found.last_hidden_state))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_cached_generation_agrees_with_uncached(family: str) -> None:
    """The prompt enters with the first step; the later ones find it in the cache."""
    kind, config = {
        "llama": (LlamaForCausalLM, tiny.llama_config()),
        "gpt2": (GPT2LMHeadModel, tiny.gpt2_config()),
    }[family]
    model = tiny.seeded(kind, config)
    sites = attach(model, [Prompt(length=4)], tiny.generator())
    options = {
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]),
        "do_sample": False,
        "max_new_tokens": 6,
        "min_new_tokens": 6,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    ids = tiny.minibatch(rows=2)["input_ids"][:, :5]
    with swapped(sites, tiny.draw(dict(sites.shapes), std=1.0)):
        cached = model.generate(ids, use_cache=True, **options)
        uncached = model.generate(ids, use_cache=False, **options)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(
        torch.stack(cached.logits), torch.stack(uncached.logits), atol=1e-4, rtol=1e-4
    )


def test_a_prompt_starts_as_tokens_of_the_vocabulary() -> None:
    """Fixed by the seed, and in float32."""
    model = tiny.bert()
    start = attach(model, [Prompt(length=5)], tiny.generator()).values()[NAME]
    table = model.get_input_embeddings().weight
    assert all(bool((table == row).all(dim=1).any()) for row in start)
    assert start.dtype == torch.float32


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
def test_a_text_that_leaves_no_positions_for_the_prompt_is_named(family: str) -> None:
    """RoBERTa's first positions stand for none; the others have as many as their table has rows."""
    room = 78 if family == "roberta" else 80
    model = tiny.FAMILIES[family]()
    attach(model, [Prompt(length=4)], tiny.generator())
    fits = torch.full((1, room - 4), 7)
    assert model(input_ids=fits).last_hidden_state.shape[1] == room - 4
    with pytest.raises(ModelError, match=f"at most {room} positions"):
        model(input_ids=torch.full((1, room - 3), 7))


def test_arguments_given_by_position_are_understood() -> None:
    model, minibatch = tiny.bert(), tiny.minibatch()
    attach(model, [Prompt()], tiny.generator())
    found = model(minibatch["input_ids"], minibatch["attention_mask"]).last_hidden_state
    assert torch.equal(found, model(**minibatch).last_hidden_state)
