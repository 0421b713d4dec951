"""Build the model a spec describes, and the state round 0 starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from bhpeft.errors import ConfigError, StateError
from bhpeft.learning.state import AdapterState, Spec, gauge_of, layout
from bhpeft.learning.variants import Variant
from bhpeft.methods import architecture_of, method
from bhpeft.methods.attention import has_attention, use_attention
from bhpeft.methods.laid_out import lay_out
from bhpeft.methods.prompt import PromptEmbedding
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.arithmetic import PLAIN, Arithmetic, settle
from bhpeft.models.devices import AUTO, Devices, devices_here
from bhpeft.models.encode import encode, padded
from bhpeft.models.load import identify, load_base
from bhpeft.models.pace import Pace, most_threads, settle_pace, settle_threads, usual
from bhpeft.posterior import SCALES, MeanField, flatten, power_prior


def build_model(
    spec: Spec,
    arithmetic: Arithmetic = PLAIN,
    pace: Pace | None = None,
    device: Devices = AUTO,
) -> AdaptedModel:
    """Load the base model and attach the spec's methods.

    Args:
        spec: the base, the methods and the labels.
        arithmetic: what the base computes in; any state fits any. What is "auto" is measured.
        pace: how it is run; what it leaves open is measured, and the process computes with its
            threads from here on: torch knows one number for all models. None is as usual.
        device: where it is left; see `devices_here`.

    Raises:
        ModelError: the base model cannot be loaded, or there is no such device.
        UnsupportedModel: a method has no place in it, or it cannot attend as asked.
    """
    name, revision, devices = spec.base, spec.revision or None, devices_here(device)
    arithmetic, pace = _settled(spec, arithmetic, pace, devices[0])
    base = load_base(name, revision, spec.layers, arithmetic.torch_dtype)
    architecture = architecture_of(base.model)
    # On a GPU ours is worth it for its mask, which does not make the host wait.
    ours = devices[0].type == "cuda" and has_attention(base.model, architecture)
    if arithmetic.attention != "sdpa" or ours:
        use_attention(base.model, architecture, arithmetic.attention, pace.explicit_tokens)
    if pace.laid_out:
        lay_out(base.model)
    predicted = spec.predicted
    model = AdaptedModel(
        base,
        [method(name, settings) for name, settings in spec.methods.items()],
        predicted.outputs(spec.labels),
        spec.pooling or None,
        generator=Generator().manual_seed(spec.seed),
        head=predicted.head(spec.labels),
    )
    model.folded_rows = pace.folded_rows or model.folded_rows
    return model.spread(devices)


def _settled(
    spec: Spec, arithmetic: Arithmetic, pace: Pace | None, device: torch.device
) -> tuple[Arithmetic, Pace]:
    """Return both with what they leave open measured: the threads, the arithmetic, the rest."""
    if arithmetic.settled and (pace is None or pace.settled):
        return arithmetic, pace or usual(device)
    config, fingerprint = identify(spec.base, spec.revision or None, spec.layers)
    if pace is not None:
        pace = replace(pace, threads=settle_threads(pace.threads, config, fingerprint, device))
        torch.set_num_threads(pace.threads or most_threads())
    arithmetic = settle(arithmetic, config, fingerprint, device)
    if pace is None:
        return arithmetic, usual(device)
    return arithmetic, settle_pace(pace, arithmetic, config, fingerprint, device)


def first_state(
    model: AdaptedModel, spec: Spec, variant: Variant, texts: Sequence[str], generator: Generator
) -> AdapterState:
    """Return the state before anything was learned: q at its start, the base prior beside it.

    Args:
        model: freshly built, its methods at their initial values.
        spec: what the state will be; its gauge and fingerprint are filled in here.
        variant: which weights are Gaussian and under which prior.
        texts: a few rows, on which the spread of real keys and values is measured.
        generator: the source of σ's start, where the variant spreads it.

    Raises:
        ConfigError: the methods have no weight that the variant makes Gaussian.
    """
    initial = {name: value.detach().cpu() for name, value in model.sites.values().items()}
    gaussian = {name: v for name, v in initial.items() if _part(model, name) in variant.gaussian}
    _check_gaussian(model, variant, gaussian)
    point = {name: initial[name] for name in sorted(initial) if name not in gaussian}
    shapes = layout(gaussian)
    prior = _base_prior(model, variant, shapes, _measured(model, spec, texts))
    start = MeanField(
        flatten(gaussian, shapes), _start_rho(variant, prior, generator), shapes, variant.scale
    )
    return AdapterState(
        posterior=start,
        prior=prior,
        point=point,
        precision={name: _decay(model, variant, name, value) for name, value in point.items()},
        spec=spec,
    ).with_spec(
        fingerprint=model.base.fingerprint,
        revision=model.base.revision or "",
        gauge=gauge_of_model(model),
        pooling=model.pooling,
    )


def later_state(
    parent: AdapterState, variant: Variant, rho: float, generator: Generator
) -> tuple[AdapterState, MeanField]:
    """Return where a later round starts, and its prior.

    It starts at q = prior, so that with no data nothing moves; or over, where nothing is kept.

    Args:
        parent: the state it goes on from.
        variant: how it is learned.
        rho: how much of the past is kept.
        generator: the source of σ's start, where the variant spreads it.
    """
    prior = power_prior(parent.posterior, parent.prior, rho)
    begun = prior if rho > 0 else anew(prior, variant, generator)
    return replace(parent, posterior=begun), prior


def anew(prior: MeanField, variant: Variant, generator: Generator) -> MeanField:
    """Return where a later round starts over: at the base prior's mean, as narrow as a first one.

    Draws as wide as the base prior drown what the rows of a short round say, whichever round it is
    (R6 of docs/reproduction.md).

    Args:
        prior: the base prior.
        variant: which says how narrow a first round starts.
        generator: the source of σ's start, where the variant spreads it.
    """
    return replace(prior, rho=_start_rho(variant, prior, generator))


def _decay(model: AdaptedModel, variant: Variant, name: str, value: Tensor) -> Tensor:
    """Return the precision of a point weight's prior around zero: 0 where it has none."""
    if not variant.decays:
        return torch.zeros_like(value)
    site = model.sites[name]
    return torch.full_like(value, variant.prior_std(site.part, site.fan_in, None) ** -2)


def gauge_of_model(model: AdaptedModel) -> str:
    """Return the coordinates a chain that starts from this model would live in.

    They are its frozen factors; where none is frozen, the factors it starts from.
    """
    weights = model.sites.frozen or model.sites.values()
    return gauge_of(model.base.fingerprint, weights)


def check_gauge(model: AdaptedModel, state: AdapterState) -> None:
    """Refuse a state on a model whose frozen factors are not those it was learned between.

    Raises:
        StateError: they are others.
    """
    if not model.sites.frozen:
        return
    found = gauge_of_model(model)
    if found != state.spec.gauge:
        raise StateError(
            "The model's frozen factors are not those this posterior was learned between",
            found=f"gauge {found[:12]}",
            expected=f"gauge {state.spec.gauge[:12]}",
            remedy="Put learning.seed back: the frozen factors are drawn from it.",
        )


def _check_gaussian(model: AdaptedModel, variant: Variant, gaussian: Mapping[str, Tensor]) -> None:
    """Refuse a Bayesian variant without a posterior: it would silently be a point estimate."""
    drawn = variant.gaussian | variant.dropout.keys()
    if gaussian or not drawn or drawn & set(model.sites.parts.values()):
        return
    raise ConfigError(
        f"The variant {variant.name!r} makes nothing of these methods Gaussian",
        found="only " + ", ".join(sorted(set(model.sites.parts.values()))),
        expected=f"one of {', '.join(sorted(drawn))}",
        remedy="Use one of the methods "
        f"{', '.join(variant.methods)}, another variant, or say gaussian = false.",
    )


def _part(model: AdaptedModel, name: str) -> str:
    return model.sites[name].part


def _measured(model: AdaptedModel, spec: Spec, texts: Sequence[str]) -> Mapping[str, float]:
    """Return the spread of what a weight stands beside: token embeddings, or keys and values."""
    known = {
        name: site.module.measured
        for name, site in model.sites.items()
        if isinstance(site.module, PromptEmbedding)
    }
    if not any(_part(model, name).startswith("prefix.") for name in model.sites):
        return known
    tokenizer = model.base.tokenizer
    ids = encode(tokenizer, texts, spec.max_length)
    return known | model.key_value_std(padded(ids, int(tokenizer.pad_token_id)))


def _base_prior(
    model: AdaptedModel,
    variant: Variant,
    shapes: Mapping[str, tuple[int, ...]],
    measured: Mapping[str, float],
) -> MeanField:
    stds: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        site = model.sites[name]
        width = variant.prior_std(site.part, site.fan_in, measured.get(name))
        stds[name] = torch.full(shape, width)
    std = flatten(stds, shapes)
    return MeanField.from_std(torch.zeros_like(std), std, shapes, variant.scale)


def _start_rho(variant: Variant, prior: MeanField, generator: Generator) -> Tensor:
    """Draw rho uniformly between the variant's lowest and highest start, never above the prior's.

    A prefix's prior can be narrower than the start the other weights share.
    """
    scale = SCALES[variant.scale]
    low, high = (scale.rho(torch.tensor(bound)) for bound in variant.start_std)
    rho = low + (high - low) * torch.rand(prior.size, generator=generator)
    return torch.minimum(rho, prior.rho)
