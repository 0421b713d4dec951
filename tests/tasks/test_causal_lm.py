from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from bhpeft.judgement.bootstrap import paired_intervals
from bhpeft.learning.predict import Predictor
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.tasks.causal_lm import CausalLM
from bhpeft.tasks.sequences import Texts
from tests import tiny
from tests.learning import problems


def model(layers: int = 2) -> AdaptedModel:
    base = tiny.base("llama", layers)
    base.model.config.tie_word_embeddings = True
    made = [method("lora", problems.SETTINGS["lora"])]
    return AdaptedModel(base, made, 4, generator=tiny.generator(), head=CausalLM().head(()))


def test_a_text_is_as_likely_as_transformers_own_language_model_says() -> None:
    """Summed over true tokens; what stands in the padding changes nothing."""
    config = tiny.llama_config()
    config.tie_word_embeddings = True
    whole = tiny.seeded(LlamaForCausalLM, config)
    ours = model()
    ours.model.load_state_dict(
        {
            name.replace(".self_attn.q_proj.", ".self_attn.q_proj.base.").replace(
                ".self_attn.v_proj.", ".self_attn.v_proj.base."
            ): tensor
            for name, tensor in whole.model.state_dict().items()
        },
        strict=False,
    )
    ours.head.get_buffer("weight").copy_(whole.get_output_embeddings().weight.detach())
    minibatch = tiny.minibatch(rows=3)
    with torch.no_grad():
        found = ours.logits(minibatch)
        for row in range(3):
            ids = minibatch["input_ids"][row][minibatch["attention_mask"][row].bool()][None]
            logs = whole(ids).logits.log_softmax(-1)[0, :-1]
            expected = logs.gather(-1, ids[0, 1:, None]).sum()
            assert float(found[row, 0]) == pytest.approx(float(expected), rel=1e-4)
            assert float(found[row, 1]) == ids.shape[1] - 1
            entropy = -(logs.exp() * logs).sum(-1).mean()
            assert float(found[row, 2]) == pytest.approx(float(entropy), rel=1e-4)
        minibatch["input_ids"][minibatch["attention_mask"] == 0] = 7
        torch.testing.assert_close(ours.logits(minibatch), found)


def test_the_draws_disagreement_is_total_minus_expected_entropy() -> None:
    """Folded as one after the other, and the average's entropy is never below their mean."""
    ours = model()
    weights = tiny.draw(ours.shapes, draws=3)
    minibatch = tiny.minibatch()
    with torch.no_grad(), ours.swapped(weights):
        folded = ours.logits(minibatch).reshape(3, 3, 4)
    for s in range(3):
        one = {name: tensor[s] for name, tensor in weights.items()}
        with torch.no_grad(), ours.swapped(one):
            alone = ours.logits(minibatch)
        torch.testing.assert_close(folded[s, :, :3], alone[:, :3], atol=1e-4, rtol=1e-4)
    assert (folded[..., 3] >= folded[..., 2].mean(0) - 1e-5).all()


def test_gradients_are_those_of_the_whole_computed_at_once() -> None:
    ours = model()
    minibatch = tiny.minibatch()
    loss = CausalLM().loss(ours.logits(minibatch), minibatch)
    weights = [value for value in ours.sites.values().values()]
    found = torch.autograd.grad(loss, weights)
    hidden = ours.model(
        input_ids=minibatch["input_ids"], attention_mask=minibatch["attention_mask"]
    ).last_hidden_state
    logs = (hidden[:, :-1] @ ours.head.get_buffer("weight").T).log_softmax(-1)
    each = logs.gather(-1, minibatch["input_ids"][:, 1:, None])[..., 0]
    plain = -(each * minibatch["attention_mask"][:, 1:]).sum() / 3
    torch.testing.assert_close(loss, plain)
    for ours_one, plain_one in zip(found, torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(ours_one, plain_one, atol=1e-4, rtol=1e-4)


def test_a_long_text_counts_by_its_tokens(rng: np.random.Generator) -> None:
    """NLL a token over all rows, in the figures as in the paired bootstrap."""
    said = np.zeros((2, 50, 4))
    said[..., 1] = rng.integers(5, 90, size=50)
    said[..., 0] = -2.0 * said[..., 1] + rng.normal(size=(2, 50))
    worse = replace(Texts(said), said=said - np.array([5.0, 0, 0, 0]))
    quality = Texts(said).quality(rng)
    tokens = said[0, :, 1].sum()
    mixture = np.logaddexp.reduce(said[..., 0], axis=0) - np.log(2)
    assert quality.nll == pytest.approx(-mixture.sum() / tokens)
    assert quality.perplexity == pytest.approx(np.exp(quality.nll))
    found = paired_intervals(worse, Texts(said), rng=rng, resamples=50)
    assert found["nll"].mean == pytest.approx(5.0 * 50 / tokens)


def test_the_base_itself_is_what_a_first_round_has_to_beat() -> None:
    """Without methods the base says what it says, whatever the weights of the methods are."""
    ours = model()
    asked = problems.spec(task="causal_lm", labels=())
    state = problems.first_state(ours, asked, problems.BH_PEFT, ["w5 w6"], tiny.generator())
    texts = problems.texts(5)
    plain = Predictor(ours, state).base_says(texts)
    stirred = Predictor(ours, problems.later(state))
    np.testing.assert_allclose(stirred.base_says(texts), plain)
    assert np.abs(stirred.probabilities(texts, 0) - plain)[..., 0].max() > 1e-3
