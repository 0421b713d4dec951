"""Settle how a candidate answers: by the predictor the stream file names, or the one measured best.

Where it approximates, its fidelity is measured on a few hold-out texts against many more draws than
anyone would predict with, and is part of the report: a gate can judge it. Draws of all weights
approximate nothing, and are measured only as one of several to choose from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bhpeft.errors import ConfigError
from bhpeft.learning.fidelity import AUTO, chosen, kept, measured, offered, prepared
from bhpeft.learning.predict import Predictor
from bhpeft.learning.predictors import EXACT, PREDICTORS
from bhpeft.learning.state import AdapterState
from bhpeft.models.adapted import AdaptedModel
from bhpeft.plugins import resolve
from bhpeft.stream import Prediction
from bhpeft.tasks.categorical import FIGURES

# What needs numbers distilled from the posterior.
DISTILLED = {"calibrated", "linear"}


@dataclass(frozen=True)
class Answering:
    """How a candidate answers.

    Attributes:
        state: the candidate's, with its predictor and what that needs.
        fidelity: {"predictor", "rows", "draws", "kl", "kl_ratio", "rank_correlation", "rank_gap",
            "cost", "others"}, the last with the same numbers of what else was measured; the name
            alone of what approximates nothing; None where nothing was measured.
    """

    state: AdapterState
    fidelity: dict[str, Any] | None


def settle(
    asked: Prediction,
    model: AdaptedModel,
    state: AdapterState,
    *,
    unlabelled: Sequence[str],
    unseen: Sequence[str],
    champion: AdapterState | None,
) -> Answering:
    """Choose the candidate's predictor and measure it.

    Args:
        asked: the stream file's [prediction].
        model: what the state is swapped into.
        state: the candidate.
        unlabelled: texts the scalars are distilled on, which no gate looks at.
        unseen: texts the fidelity is measured on; as many as the file says are used.
        champion: the parent's state, whose predictor stays if it can.

    Raises:
        UnknownName: the file names a predictor nobody knows.
        ConfigError: the one it names does not fit the candidate.
    """
    version = Predictor(model, state)
    able, texts = offered(version), list(unseen)[: asked.fidelity_rows]
    names = able if asked.predictor == AUTO else [asked.predictor]
    if asked.predictor != AUTO:
        resolve("predictor", asked.predictor, PREDICTORS)
    if DISTILLED & set(names):
        _check_classes(version)
        version = prepared(version, unlabelled)
    if able and asked.predictor == EXACT:
        return Answering(state.with_spec(predictor=EXACT), {"predictor": EXACT})
    if not able or len(texts) < 2:
        fallback = EXACT if asked.predictor == AUTO else asked.predictor
        return Answering(version.state.with_spec(predictor=fallback), None)
    keep = kept(champion, names)
    found = measured(version, names, texts, asked.fidelity_draws, keep)
    best = chosen(found, keep)
    best = best if asked.predictor == AUTO else asked.predictor
    return Answering(
        version.state.with_spec(predictor=best),
        {
            "predictor": best,
            "rows": len(texts),
            "draws": asked.fidelity_draws,
            **found[best].as_dict(),
            "others": {name: one.as_dict() for name, one in found.items() if name != best},
        },
    )


def _check_classes(version: Predictor) -> None:
    if version.task.figures is not FIGURES:
        raise ConfigError(
            "Only predictions of classes can be mended by distilled numbers",
            found=f"the task {version.task.name!r}",
            expected="classification, or another task with probabilities",
            remedy="Ask for predictor 'last_layer', 'full' or 'auto'.",
        )
