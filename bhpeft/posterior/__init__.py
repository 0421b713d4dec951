"""Mean-field Gaussians over weights: the numerics, with torch and nothing else.

meanfield     the Gaussian itself: draws, KL, layout
elbo          the loss's scaling and gradients, the anchor, the rho-travel check
estimators    the noise of a training step: shared, per example, flipout
kl_flow       the KL on its own: BLoB's SGD, integrated exactly
forgetting    posterior → prior, and the bounds of σ
hierarchy     what the tasks of a group have in common: Θ and τ
predictive    from S draws to a prediction and its uncertainty
"""

from __future__ import annotations

from bhpeft.posterior.elbo import (
    ElboGradient,
    RhoTravel,
    anchor_penalty,
    blob_kl_weights,
    check_rho_travel,
    elbo_gradient,
    kl_gradient,
    kl_scale,
    nll_gradient,
    online_precision,
    optimal_std,
    rho_travel,
    warmup,
)
from bhpeft.posterior.estimators import ESTIMATORS, Estimator
from bhpeft.posterior.forgetting import Bound, StdBounds, clamp_std, power_prior, std_at_bounds
from bhpeft.posterior.hierarchy import (
    Hyper,
    Population,
    centred,
    check_gauges,
    population,
    updated,
)
from bhpeft.posterior.kl_flow import kl_flow, time_to_arrive
from bhpeft.posterior.meanfield import (
    SCALES,
    MeanField,
    Scale,
    Shapes,
    flatten,
    same_layout,
    unflatten,
)
from bhpeft.posterior.predictive import (
    expected_entropy,
    mean_log_probability,
    mean_probability,
    mutual_information,
    nll,
    nll_from_logits,
    predictive_entropy,
)

__all__ = [
    "SCALES",
    "MeanField",
    "Scale",
    "Shapes",
    "flatten",
    "same_layout",
    "unflatten",
    "ElboGradient",
    "RhoTravel",
    "anchor_penalty",
    "blob_kl_weights",
    "check_rho_travel",
    "elbo_gradient",
    "kl_gradient",
    "kl_scale",
    "nll_gradient",
    "online_precision",
    "optimal_std",
    "rho_travel",
    "warmup",
    "ESTIMATORS",
    "Estimator",
    "Hyper",
    "Population",
    "centred",
    "check_gauges",
    "population",
    "updated",
    "kl_flow",
    "time_to_arrive",
    "Bound",
    "StdBounds",
    "clamp_std",
    "power_prior",
    "std_at_bounds",
    "expected_entropy",
    "mean_log_probability",
    "mean_probability",
    "mutual_information",
    "nll",
    "nll_from_logits",
    "predictive_entropy",
]
