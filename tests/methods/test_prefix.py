from __future__ import annotations

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from bhpeft.errors import UnsupportedModel
from bhpeft.methods import LoRA, Prefix, attach, swapped
from tests import tiny

DECODERS = ("llama", "gpt2")


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("padded", [True, False])
def test_a_layer_without_a_prefix_is_bit_identical(family, padded):
    """The seam itself changes nothing: below the prefix the hidden states are the stock ones."""
    minibatch = tiny.minibatch(rows=3 if padded else 1)
    plain = tiny.FAMILIES[family]()(**minibatch, output_hidden_states=True).hidden_states
    model = tiny.FAMILIES[family]()
    attach(model, [Prefix(layers=1)], tiny.generator())
    found = model(**minibatch, output_hidden_states=True).hidden_states
    assert torch.equal(found[1], plain[1])
    assert not torch.equal(found[-1], plain[-1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_does_not_change_a_rows_hidden_states(family):
    """A text alone and the same text padded beside longer ones agree on its real tokens."""
    model = tiny.FAMILIES[family]()
    sites = attach(model, [Prefix(length=4)], tiny.generator())
    minibatch = tiny.minibatch()
    with swapped(sites, tiny.draw(sites.shapes, std=1.0)):
        together = model(**minibatch).last_hidden_state
        for row, real in enumerate(minibatch["attention_mask"].sum(1).tolist()):
            alone = model(
                input_ids=minibatch["input_ids"][row : row + 1, :real],
                attention_mask=minibatch["attention_mask"][row : row + 1, :real],
            ).last_hidden_state
            torch.testing.assert_close(together[row, :real], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("masked", [True, False])
def test_decoders_stay_causal(family, masked):
    """A later token changes nothing before it, with a mask and without."""
    model = tiny.FAMILIES[family]()
    sites = attach(model, [Prefix(length=4)], tiny.generator())
    ids = tiny.minibatch(rows=1)["input_ids"]
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % tiny.VOCAB
    mask = {"attention_mask": torch.ones_like(ids)} if masked else {}
    with swapped(sites, tiny.draw(sites.shapes, std=1.0)):
        first = model(input_ids=ids, **mask).last_hidden_state
        second = model(input_ids=changed, **mask).last_hidden_state
    torch.testing.assert_close(first[0, :5], second[0, :5], atol=1e-6, rtol=1e-6)
    assert (first[0, 5:] - second[0, 5:]).abs().amax(-1).gt(1e-4).all()


def test_a_prefix_equals_real_tokens_with_those_keys_and_values():
    """Attention over [P; X] written out by hand gives the same output, grouped heads included."""
    model = tiny.llama(1)
    sites = attach(model, [Prefix(length=3)], tiny.generator())
    weights = tiny.draw(sites.shapes, std=1.0)
    attention = model.layers[0].self_attn
    x = torch.randn(1, 5, 32, generator=tiny.generator())
    flat = (torch.ones(1, 5, 8), torch.zeros(1, 5, 8))  # cos, sin: no rotation
    with swapped(sites, weights):
        found = attention(x, position_embeddings=flat)[0]

    def heads(t, count):
        return t.reshape(-1, count, 8).transpose(0, 1)

    key = torch.cat([weights["0.attention.prefix.key"], (attention.k_proj(x)[0])])
    value = torch.cat([weights["0.attention.prefix.value"], attention.v_proj(x)[0]])
    key = heads(key, 2).repeat_interleave(2, dim=0)
    value = heads(value, 2).repeat_interleave(2, dim=0)
    scores = heads(attention.q_proj(x)[0], 4) @ key.transpose(1, 2) / 8**0.5
    hidden = torch.ones(5, 8).tril(diagonal=3) == 0  # queries see 3 prefix keys and what is behind
    attended = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
    expected = attention.o_proj(attended.transpose(0, 1).reshape(5, 32))
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_cached_generation_agrees_with_uncached(family):
    """The prefix is seen once a step, so the cache changes speed and nothing else."""
    kind, config = {
        "llama": (LlamaForCausalLM, tiny.llama_config()),
        "gpt2": (GPT2LMHeadModel, tiny.gpt2_config()),
    }[family]
    model = tiny.seeded(kind, config)
    ids = tiny.minibatch(rows=2)["input_ids"][:, :5]
    options = {
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]),
        "do_sample": False,
        "max_new_tokens": 6,
        "min_new_tokens": 6,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    plain = model.generate(ids, use_cache=True, **options)
    sites = attach(model, [Prefix(length=4)], tiny.generator())
    with swapped(sites, tiny.draw(sites.shapes, std=1.0)):
        cached = model.generate(ids, use_cache=True, **options)
        uncached = model.generate(ids, use_cache=False, **options)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(
        torch.stack(cached.logits), torch.stack(uncached.logits), atol=1e-4, rtol=1e-4
    )
    assert not torch.allclose(torch.stack(cached.logits), torch.stack(plain.logits), atol=1e-2)


def test_grouped_heads_get_a_prefix_of_their_own_width():
    """Llama's keys have two heads of eight here, not four."""
    sites = attach(tiny.llama(1), [Prefix(length=5)], tiny.generator())
    assert sites.shapes["0.attention.prefix.key"] == (5, 16)


def test_a_model_with_attention_of_its_own_is_named():
    """DeBERTa-v2 cannot be served; the error says so and what to do."""
    with pytest.raises(UnsupportedModel, match=r"DebertaV2Model.*Leave prefix out"):
        attach(tiny.deberta(), [LoRA(), Prefix()], tiny.generator())


def test_another_attention_implementation_is_refused():
    """The prefix calls sdpa: on an eager model it would silently change the arithmetic."""
    model = tiny.bert()
    model.set_attn_implementation("eager")
    with pytest.raises(UnsupportedModel, match="found attn_implementation='eager'"):
        attach(model, [Prefix()], tiny.generator())
