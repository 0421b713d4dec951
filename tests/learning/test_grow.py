from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bhpeft.learning.build import first_state
from bhpeft.learning.grow import grow
from bhpeft.learning.variants import BH_PEFT, Variant
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.posterior import power_prior, unflatten
from bhpeft.tasks.classification import Classification, among
from tests import tiny
from tests.learning import problems

HEAD = ("head.weight", "head.bias")
BAYESIAN_HEAD: Variant = replace(BH_PEFT, gaussian=BH_PEFT.gaussian | set(HEAD))


def model(labels: int) -> AdaptedModel:
    made = [method("lora", problems.SETTINGS["lora"])]
    return AdaptedModel(tiny.base(), made, labels, generator=tiny.generator(3))


def test_a_gaussian_head_gives_a_new_class_the_base_prior_at_any_forgetting() -> None:
    """Old rows keep their posterior; the new row's prior is the base prior whatever ρ is."""
    small, large = model(2), model(4)
    asked = problems.spec(variant=BAYESIAN_HEAD)
    start = first_state(small, asked, BAYESIAN_HEAD, problems.texts(3), tiny.generator())
    state = problems.later(start)
    grown = grow(state, large, ("no", "yes", "perhaps", "never"))
    grown.check_layout(large.shapes)
    before = unflatten(state.posterior.mean, state.posterior.shapes)
    after = unflatten(grown.posterior.mean, grown.posterior.shapes)
    for name in before:
        assert torch.equal(after[name][: len(before[name])], before[name])
    for rho in (1.0, 0.4, 0.0):
        prior = power_prior(grown.posterior, grown.prior, rho)
        std = unflatten(prior.std, prior.shapes)["head.weight"][2:]
        mean = unflatten(prior.mean, prior.shapes)["head.weight"][2:]
        torch.testing.assert_close(std, torch.full_like(std, 0.1))
        torch.testing.assert_close(mean, torch.zeros_like(mean))


def test_a_state_that_knows_all_labels_is_returned_as_it_is() -> None:
    state = problems.start(problems.model())
    assert grow(state, problems.model(), state.spec.labels) is state


def test_among_fewer_labels_the_loss_has_no_gradient_at_the_others() -> None:
    """A row that could not say a label says nothing about it."""
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.1, 2.0]], requires_grad=True)
    minibatch = {"labels": torch.tensor([0, 2]), "options": torch.tensor([2, 0])}
    loss = Classification().loss(logits, minibatch)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0
    assert (logits.grad[1] != 0).all()
    expected = torch.stack([logits[0, :2].log_softmax(0)[0], logits[1].log_softmax(0)[2]])
    torch.testing.assert_close(loss, -expected.mean())


def test_probabilities_among_fewer_labels_are_those_of_masked_logits() -> None:
    logits = torch.randn(3, 5, 4, generator=tiny.generator())
    options = np.array([2, 0, 4, 3, 2])
    found = Classification().restricted(logits.softmax(-1).double().numpy(), options)
    for s in range(3):
        masked = among(logits[s], torch.from_numpy(options)).softmax(-1)
        np.testing.assert_allclose(found[s], masked.numpy(), atol=1e-6)
