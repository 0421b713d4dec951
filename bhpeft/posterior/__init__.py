"""Mean-field Gaussians over weights: the numerics, with torch and nothing else.

meanfield     the Gaussian itself: draws, KL, layout
elbo          the loss's scaling and gradients, the anchor, the rho-travel check
forgetting    posterior → prior, and the bounds of σ
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
from bhpeft.posterior.forgetting import Bound, StdBounds, clamp_std, power_prior, std_at_bounds
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
