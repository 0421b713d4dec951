"""Name which weights are Gaussian, under which first prior, and how the ELBO is estimated.

A variant is a value. `VARIANTS` holds the published systems; a stream file may name another one as
`package.module:attribute`, and `Variant.point()` turns any of them into its point estimate (the
MLE baseline of the papers) without another code path: no weight is Gaussian, so no KL is left.

Sources:
    BH-PEFT: arXiv 2508.02711, §4 (hybrid PEFT, N(0, 0.1²) first prior, posterior → prior rounds).
    BLoB: arXiv 2406.11675, §3 (σ = G², prior N(0, 0.2²) on A, re-weighted KL, KL stepped by SGD).
    BoRA: arXiv 2407.15857, §3 (a hierarchy over LoRA weights; what is Gaussian here is ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

from bhpeft.plugins import resolve

# The prefix's first prior is a fraction of the spread of the real keys and values around it, which
# only a forward pass can tell; this is that fraction (method notes, "prior width").
PREFIX_FRACTION = 0.1


@dataclass(frozen=True)
class Width:
    """The first prior's standard deviation of one part: a number, or one divided by √fan_in.

    `times_measured` marks parts whose natural unit is measured on the base model (a layer's own
    keys and values, its token embeddings); the number then multiplies what was measured.
    """

    std: float
    over_sqrt_fan_in: bool = False
    times_measured: bool = False

    def of(self, fan_in: int, measured: float | None) -> float:
        """Return the standard deviation for a weight with `fan_in` inputs."""
        if self.times_measured and measured is not None:
            return self.std * measured
        return self.std / sqrt(fan_in) if self.over_sqrt_fan_in else self.std


@dataclass(frozen=True)
class Variant:
    """One way of being Bayesian about an adapter.

    Attributes:
        name: as in the stream file and in MLflow.
        gaussian: parts ("lora.a", "head.weight", …) with a posterior; all others are points.
        prior: first prior by part; `default_prior` for parts not listed.
        start_std: lowest and highest σ when round 0 starts, drawn uniformly in rho; small, since
            with B = 0 the likelihood is silent and the KL alone would inflate σ.
        scale: how rho maps to σ, a key of `bhpeft.posterior.SCALES`.
        estimator: how a step draws its noise, a key of `bhpeft.posterior.ESTIMATORS`.
        kl_schedule: "constant", or "increasing" for BLoB's 2^i/(2^M − 1) over an epoch.
        optimiser: how the Gaussian weights move, a key of `bhpeft.learning.movement.MOVES`: "adam",
            "adam_sgd" (the KL by SGD of its own beside AdamW on the NLL, as BLoB does) or "ivon".
        mean_step, rho_step: factors on the plan's learning rates of mean and rho, whose units are
            the optimiser's and the scale's own.
        longer_steps: a round of few steps takes longer ones, where something is Gaussian and the
            plan names no learning rate.
        kl_weight: λ of the objective, constant over rounds.
        kl_mean: the KL is averaged over weights instead of summed and divided by the rows, as
            published: then `kl_weight` is that mean's factor, and λ follows from it (`summed`).
        parameterisation: which factors of a low-rank map are learned, for the methods that have
            one; a key of `bhpeft.methods.PARAMETERISATIONS`.
        decays: point weights have the prior N(0, width²) too, as weight decay: MAP.
        members: of an ensemble, each learned on its own.
        dropout: by part, the share of inputs that each draw leaves out: MC-dropout.
        finish: what is done after the descent, a key of `bhpeft.learning.finishes.FINISHES`.
        methods: the PEFT methods the variant is published with.
        settings: theirs by method, where they are not the method's own defaults.
    """

    name: str
    gaussian: frozenset[str]
    prior: Mapping[str, Width]
    default_prior: Width
    start_std: tuple[float, float]
    methods: tuple[str, ...]
    scale: str = "softplus"
    estimator: str = "shared"
    kl_schedule: str = "constant"
    optimiser: str = "adam"
    mean_step: float = 1.0
    rho_step: float = 1.0
    longer_steps: bool = False
    kl_weight: float = 1.0
    kl_mean: bool = False
    parameterisation: str = "blob"
    decays: bool = False
    members: int = 1
    dropout: Mapping[str, float] = field(default_factory=dict)
    finish: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def kl_by_sgd(self) -> bool:
        """Say whether the KL is stepped apart from the NLL."""
        return self.optimiser == "adam_sgd"

    def point(self) -> Variant:
        """Return the same system as a point estimate: maximum likelihood, no posterior."""
        return replace(self, name=f"{self.name}_point", gaussian=frozenset())

    def summed(self, rows: int, weights: int) -> Variant:
        """Return the same objective with λ itself in front of the KL's sum over rows.

        c · mean_j KL_j = (λ/N) · Σ_j KL_j for λ = c·N/P, another one for each batch and model:
        which is why it is no default (method notes §4, "λ growing with N_t").

        Args:
            rows: N, the round's training rows.
            weights: P, how many are Gaussian.
        """
        if not self.kl_mean:
            return self
        implied = self.kl_weight * rows / weights if weights else self.kl_weight
        return replace(self, kl_weight=implied, kl_mean=False)

    def prior_std(self, part: str, fan_in: int, measured: float | None) -> float:
        """Return the first prior's σ for a weight of `part`."""
        return self.prior.get(part, self.default_prior).of(fan_in, measured)


# The side of each method that reads the model's activations, or that tokens attend to. BitFit has
# no other side: its δ is all there is.
INPUT_SIDE = frozenset(
    {
        "lora.a",
        "adapter.down",
        "prefix.key",
        "prefix.value",
        "prefix.first",
        "prompt.embedding",
        "bitfit.delta",
        "houlsby.down",
    }
)

# Ours: the abstract's "all hybrid parameters" on the input side of each method. The up-projections
# and B stay points, as in the authors' code, because (A, B) and (RA, BR⁻¹) are the same function:
# a posterior on both sides would pay nats for a change of gauge.
#
# λ = 0.3, `blob` and eight draws are what A1 to A3 of docs/reproduction.md leave standing: of 300
# rows on two-class sets (MiniLM, three seeds), λ = 0.1 and 1 were 0.060 and 0.025 nats worse,
# `linear` and `core` 0.021 and 0.026; none surely so, and none better. The head is a point as
# published; see `BH_PEFT_HEAD`.
BH_PEFT = Variant(
    name="bh_peft",
    gaussian=INPUT_SIDE,
    prior={
        "prefix.key": Width(PREFIX_FRACTION, times_measured=True),
        "prefix.value": Width(PREFIX_FRACTION, times_measured=True),
        # A virtual token is one like the vocabulary's.
        "prompt.embedding": Width(1.0, times_measured=True),
    },
    default_prior=Width(0.1),
    start_std=(0.02, 0.02),
    methods=("lora", "adapter", "prefix"),
    longer_steps=True,
    kl_weight=0.3,
)

# The same with a Gaussian classifier head, which takes out overconfidence further where classes are
# few and steps many: of 500 rows in 640 steps its NLL was the lowest at equal cost, 0.024 nats
# (0.005 to 0.043) below the point head's (A6 of docs/reproduction.md). With six classes it was
# 0.241 against 0.206 (R1), with 150 the draws cost 0.27 nats of the mean weights' NLL (R3), and in
# rounds of 80 steps it is 1.7 points of accuracy behind (R5): a choice, not the default.
HEAD_STD = 0.3
BH_PEFT_HEAD = replace(
    BH_PEFT,
    name="bh_peft_head",
    gaussian=INPUT_SIDE | {"head.weight", "head.bias"},
    prior={**BH_PEFT.prior, "head.weight": Width(HEAD_STD), "head.bias": Width(HEAD_STD)},
)

# G ~ U(ε/√2, ε) with ε = 0.05 in the paper, so σ = G² starts between ε²/2 and ε².
BLOB_EPSILON = 0.05
BLOB = Variant(
    name="blob",
    gaussian=frozenset({"lora.a"}),
    prior={},
    default_prior=Width(0.2),
    start_std=(BLOB_EPSILON**2 / 2, BLOB_EPSILON**2),
    methods=("lora",),
    scale="square",
    estimator="flipout",
    kl_schedule="increasing",
    optimiser="adam_sgd",
    # A nat of σ = G² is G/2 of rho, 0.025 at the start against 1 for softplus.
    rho_step=BLOB_EPSILON / 2,
    kl_weight=1.0,
)

# The same hybrid with the Gaussian elsewhere: on the output side of frozen orthonormal factors, or
# on a core between two of them. Both start from the base model, where the likelihood is not silent.
BH_PEFT_LINEAR = replace(
    BH_PEFT,
    name="bh_peft_linear",
    gaussian=INPUT_SIDE | {"lora.b", "adapter.up", "houlsby.up"},
    longer_steps=False,  # not tried
    parameterisation="linear",
)
BH_PEFT_CORE = replace(
    BH_PEFT,
    name="bh_peft_core",
    gaussian=INPUT_SIDE | {"lora.core", "adapter.core", "houlsby.core"},
    longer_steps=False,  # not tried
    parameterisation="core",
)

# What a group of streams or tasks can share: every learned factor is Gaussian, the head's too, and
# the frozen ones come from one seed. σ0 of the head is the first probe's (method notes §4).
BORA = replace(
    BH_PEFT_LINEAR,
    name="bora",
    gaussian=BH_PEFT_LINEAR.gaussian | {"head.weight", "head.bias", "head.log_variance"},
    prior={**BH_PEFT.prior, "head.weight": Width(HEAD_STD), "head.bias": Width(HEAD_STD)},
    methods=("lora",),
)

# The authors' own: adapters beside every feed-forward block and a prefix of 30 in every attention,
# learned through its network in the first round; N(0, 0.1²) on the down-projections and on the
# network's first matrix, then on the keys and values it leaves; 0.001 times the mean KL. Which λ
# that is, is logged for each round: 2e-6 for 500 rows of MiniLM's adapters and prefix network.
BH_PEFT_PAPER = replace(
    BH_PEFT,
    name="bh_peft_paper",
    gaussian=frozenset({"adapter.down", "prefix.first", "prefix.key", "prefix.value"}),
    prior={},
    methods=("adapter", "prefix"),
    settings={
        "adapter": {"bottleneck": 8, "scale": 4.0},
        "prefix": {"length": 30, "projection": 512},
    },
    longer_steps=False,
    kl_weight=1e-3,
    kl_mean=True,
)

# What a Bayesian variant has to be better than; all of them on the same methods.
POINT = replace(BH_PEFT, name="point", gaussian=frozenset(), longer_steps=False)
MAP = replace(
    POINT,
    name="map",
    # The Gaussian prior of the adapters' weights; the head's is the one Laplace has below.
    prior={**BH_PEFT.prior, "head.weight": Width(1.0), "head.bias": Width(1.0)},
    decays=True,
    kl_weight=1.0,
)
# The inputs of what multiplies them, and those of the head; published on LoRA at this rate.
DROPOUT_RATE = 0.1
MC_DROPOUT = replace(
    MAP,
    name="mc_dropout",
    dropout=dict.fromkeys(("lora.a", "adapter.down", "houlsby.down", "head.weight"), DROPOUT_RATE),
)
ENSEMBLE = replace(POINT, name="ensemble", members=3)
TEMPERATURE = replace(POINT, name="temperature", finish="temperature")
LAPLACE = replace(
    MAP,
    name="laplace",
    gaussian=frozenset({"head.weight", "head.bias"}),
    estimator="mean",
    finish="laplace",
)

# A point estimate's LoRA made Bayesian afterwards: A goes to its mode, σ is found by looking.
TFB = replace(
    MAP,
    name="tfb",
    gaussian=frozenset({"lora.a"}),
    methods=("lora",),
    estimator="mean",
    finish="training_free",
)

# Another optimiser on the very problem of ours. Published on LoRA's A and B both; on 500 sentences
# of reviews (MiniLM, one seed, λ = 1) that gave accuracy 0.733 and NLL 0.527 where A alone gave
# 0.781 and 0.457. Its rates are the plan's in its own units: α = 0.05, and 1 − β₂ = 0.01, since a
# round has hundreds of steps where the paper's trainings have as many thousands.
IVON = replace(
    BH_PEFT, name="ivon", optimiser="ivon", longer_steps=False, mean_step=25.0, rho_step=0.5
)

VARIANTS: dict[str, Variant] = {
    one.name: one
    for one in (
        *(BH_PEFT, BH_PEFT_HEAD, BH_PEFT_PAPER, BLOB, BH_PEFT_LINEAR, BH_PEFT_CORE, BORA),
        *(POINT, MAP, MC_DROPOUT, ENSEMBLE, TEMPERATURE, LAPLACE, TFB, IVON),
    )
}


def variant(name: str) -> Variant:
    """Return the variant called `name`, or the one at `package.module:attribute`.

    Raises:
        UnknownName: neither is known.
    """
    return resolve("variant", name, VARIANTS)
