from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bhpeft.errors import StateError
from bhpeft.learning.build import first_state
from bhpeft.learning.population import Member, PopulationState, population_of
from bhpeft.learning.sharing import at_population, base_prior, check_shares, coordinates
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import BH_PEFT, BORA
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.posterior import unflatten
from tests import tiny
from tests.learning import problems

LINEAR = {"lora": {"rank": 2, "parameterisation": "linear"}}


def model(labels: int = 2, seed: int = 3, parameterisation: str = "linear") -> AdaptedModel:
    made = [method("lora", LINEAR["lora"] | {"parameterisation": parameterisation})]
    return AdaptedModel(tiny.base(), made, labels, generator=tiny.generator(seed))


def state(labels: tuple[str, ...] = ("no", "yes"), seed: int = 0) -> AdapterState:
    """Return a posterior somewhere, over the weights of a head for these labels."""
    spec = replace(problems.spec((), BORA), labels=labels, methods=LINEAR)
    start = first_state(model(len(labels)), spec, BORA, (), tiny.generator())
    return problems.later(start, seed)


def member(name: str) -> Member:
    return Member(name, 1, "d" * 64)


def test_it_comes_back_from_its_files_to_the_bit(tmp_path: Path) -> None:
    states = [(member("anna"), state(seed=1)), (member("ben"), state(seed=2))]
    made = population_of(states, "gauge")
    again = PopulationState.load(made.save(tmp_path))
    assert torch.equal(again.known.mean, made.known.mean)
    assert replace(again, known=made.known) == made
    assert (again.known.tau, again.known.shapes, again.known.updates) == (
        dict(made.known.tau), dict(made.known.shapes), 1,
    )  # fmt: skip


@pytest.mark.parametrize("file", ["population.json", "population.safetensors"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, file: str) -> None:
    population_of([(member("anna"), state())], "gauge").save(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StateError, match=r"population cannot be read.*Roll back"):
        PopulationState.load(tmp_path)


def test_a_head_is_shared_by_those_who_answer_the_same_and_by_nobody_else() -> None:
    """A stream whose labels grew tells about its LoRA alone, and its head keeps its own prior."""
    two, three = state(seed=1), state(("no", "yes", "maybe"), seed=2)
    other = state(("cat", "dog"), seed=3)
    alone = population_of([(member("anna"), two)], "gauge")
    all_three = population_of(
        [(member("anna"), two), (member("ben"), three), (member("carl"), other)], "gauge"
    )
    means = [unflatten(one.known.mean, one.known.shapes) for one in (alone, all_three)]
    torch.testing.assert_close(means[0]["head.weight"], means[1]["head.weight"])
    assert not torch.equal(means[0]["0.query.lora.b"], means[1]["0.query.lora.b"])
    for one in (three, other):
        prior = base_prior(all_three.known, one.prior, all_three.answers_alike(one.spec))
        found, own = (unflatten(p.mean, p.shapes) for p in (prior, one.prior))
        assert torch.equal(found["head.weight"], own["head.weight"])
        assert torch.equal(found["0.query.lora.b"], means[1]["0.query.lora.b"])


def test_a_first_state_at_its_population_is_its_prior() -> None:
    made = population_of([(member("anna"), state(seed=1))], "gauge")
    begun = at_population(made.known, state(seed=5))
    assert begun.posterior is begun.prior
    assert torch.equal(begun.posterior.mean, made.known.mean)


def test_coordinates_are_the_frozen_factors_and_whatever_point_is_no_head() -> None:
    """Another seed, or a B that has moved, is another place; a head's weights are not."""
    here = state()
    assert coordinates(here) == coordinates(state(("a", "b", "c"), seed=4))
    head = replace(here, point={"head.scale": torch.ones(1)})
    assert coordinates(head) == coordinates(here)
    moved = replace(here, point={"0.query.lora.b": torch.ones(1)})
    assert coordinates(moved) != coordinates(here)
    assert coordinates(here.with_spec(gauge="other")) != coordinates(here)


def test_what_would_move_its_own_coordinates_cannot_share() -> None:
    check_shares(model(), BORA)
    with pytest.raises(StateError, match=r"lora\.b learned as a point.*bora"):
        check_shares(model(parameterisation="blob"), BH_PEFT)
