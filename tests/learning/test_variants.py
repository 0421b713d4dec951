from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
import torch

from bhpeft.errors import ConfigError, UnknownName
from bhpeft.learning.variants import BH_PEFT, BLOB, VARIANTS, Variant, Width, variant
from bhpeft.models.encode import collate
from bhpeft.posterior import unflatten
from tests import tiny
from tests.learning import problems

ALL = ("lora", "adapter", "prefix", "prompt", "bitfit", "houlsby")

# What a user's own package would hold; named below as "module:attribute".
GAUSSIAN_HEAD = replace(
    BH_PEFT,
    name="gaussian_head",
    gaussian=frozenset({"head.weight"}),
    prior={"head.weight": Width(2.0, over_sqrt_fan_in=True)},
)


def test_bh_peft_is_gaussian_on_the_input_side_of_every_method_and_on_nothing_else() -> None:
    """Down-projection, prefix and LoRA's A; up-projections, B and the head stay points."""
    model = problems.model(ALL)
    state = problems.start(model, ALL, BH_PEFT)
    parts = {model.sites[name].part for name in state.posterior.shapes}
    points = {model.sites[name].part for name in state.point}
    published = {"lora.a", "adapter.down", "prefix.key", "prefix.value"}
    assert parts == published | {"prompt.embedding", "bitfit.delta", "houlsby.down"}
    assert {"lora.b", "head.weight", "head.bias", "houlsby.up", "houlsby.down_bias"} <= points
    assert any(part.startswith("adapter.up") for part in points)
    assert not parts & points


def test_bh_peft_starts_from_the_published_prior() -> None:
    """N(0, 0.1²) on what multiplies inputs; a tenth of the real keys' spread on prefixes.

    A virtual token is as wide as the vocabulary's own.
    """
    model = problems.model(ALL)
    state = problems.start(model, ALL, BH_PEFT)
    measured = model.key_value_std(collate(tiny.tokenizer(), problems.texts(6), 16))
    for name, std in unflatten(state.prior.std, state.prior.shapes).items():
        expected = 0.1 * measured[name] if "prefix" in name else 0.1
        if "prompt" in name:
            expected = float(model.model.get_input_embeddings().weight.std())
        torch.testing.assert_close(std, torch.full_like(std, expected))
    assert bool((state.prior.mean == 0).all())
    assert BH_PEFT.scale == "softplus"


def test_blob_is_gaussian_on_a_with_sigma_g_squared_between_half_and_all_of_epsilon_squared() -> (
    None
):
    """G ~ U(ε/√2, ε) with ε = 0.05, so σ = G² starts between 0.00125 and 0.0025; prior 0.2."""
    model = problems.model()
    state = problems.start(model, variant=BLOB)
    assert {model.sites[name].part for name in state.posterior.shapes} == {"lora.a"}
    std, rho = state.posterior.std, state.posterior.rho
    torch.testing.assert_close(std, rho.square())
    assert 0.05**2 / 2 <= float(std.min()) < float(std.max()) <= 0.05**2
    # Uniform in G, not in σ: the mean of G lies in the middle of its interval.
    middle = 0.05 * (1 + 1 / sqrt(2)) / 2
    assert float(rho.mean()) == pytest.approx(middle, abs=4 * 0.05 * 0.3 / sqrt(12 * len(rho)))
    torch.testing.assert_close(state.prior.std, torch.full_like(std, 0.2))


def test_blob_draws_by_flipout_and_steps_an_increasing_kl_by_sgd() -> None:
    """The estimator of the paper, every part of it a value and none an `if`."""
    assert BLOB.estimator == "flipout"
    assert BLOB.kl_by_sgd
    assert BLOB.kl_schedule == "increasing"
    assert BLOB.methods == ("lora",)
    assert (BLOB.kl_weight, BH_PEFT.kl_weight) == (1.0, 0.3)


def test_lora_b_starts_at_zero_so_that_round_0_starts_from_the_base_model() -> None:
    state = problems.start(problems.model(), variant=BLOB)
    assert all(bool((value == 0).all()) for name, value in state.point.items() if "lora.b" in name)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_point_estimate_of_a_variant_has_nothing_gaussian_and_is_otherwise_the_same(
    name: str,
) -> None:
    """The MLE baseline is the same system with P = 0, hence with no KL."""
    published = VARIANTS[name]
    point = published.point()
    assert replace(point, name=name, gaussian=published.gaussian) == published
    state = problems.start(problems.model(), variant=point)
    assert state.posterior.size == 0
    assert state.point.keys() == problems.model().shapes.keys()


def test_the_start_of_sigma_never_exceeds_the_priors() -> None:
    """A prefix's prior can be narrower than the start that all weights share."""
    wide = replace(BH_PEFT, start_std=(5.0, 5.0))
    state = problems.start(problems.model(ALL), ALL, wide)
    torch.testing.assert_close(state.posterior.std, state.prior.std)


def test_the_prior_width_divides_by_the_root_of_the_fan_in_where_it_says_so() -> None:
    assert Width(2.0, over_sqrt_fan_in=True).of(16, None) == 0.5
    assert Width(2.0).of(16, 3.0) == 2.0
    assert Width(2.0, times_measured=True).of(16, 3.0) == 6.0


def test_a_variant_that_finds_nothing_to_be_gaussian_is_refused_by_name() -> None:
    """BLoB on adapters alone would silently be a point estimate without a posterior."""
    with pytest.raises(ConfigError, match=r"'blob' makes nothing.*expected one of lora.a"):
        problems.start(problems.model(["adapter"]), ["adapter"], BLOB)
    problems.start(problems.model(["adapter"]), ["adapter"], BLOB.point())


def test_an_unknown_variant_lists_the_known_ones_and_the_closest() -> None:
    with pytest.raises(UnknownName, match=r"bh_peft, .*blob.*Did you mean 'blob'"):
        variant("blobb")


def test_a_users_variant_is_found_by_module_and_attribute() -> None:
    """No registration: the name of an importable value is enough."""
    found: Variant = variant("tests.learning.test_variants:GAUSSIAN_HEAD")
    assert found == GAUSSIAN_HEAD
    state = problems.start(problems.model(), variant=found)
    assert set(state.posterior.shapes) == {"head.weight"}
    torch.testing.assert_close(state.prior.std, torch.full((64,), 2 / sqrt(32)))
