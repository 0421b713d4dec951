"""Choose how much of the past a round keeps: a fixed ρ, or one that adapts to drift.

Before anything is trained, the champion's NLL on the new batch's selection rows is compared with
its NLL on the chain's frozen hold-out rows, as far as both are known: the prequential signal. When
it says drift, the round is trained twice, with the usual ρ and with a smaller one, and the
candidate with the lower NLL on the selection rows is kept. No gate looks at those rows.

Source: method notes §3; the power prior is in `bhpeft.posterior.forgetting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bhpeft.data.contract import Contract
from bhpeft.learning.finishes import Selection
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.models.adapted import AdaptedModel
from bhpeft.rounds.asked import targets_of
from bhpeft.rounds.memory import Memory
from bhpeft.stream import Stream

# One-sided 95 % of a standard normal: one undrifted round in twenty is trained twice for nothing.
CRITICAL = 1.645
# Below this many rows on either side the normal approximation says little.
FEWEST_ROWS = 20


@dataclass(frozen=True)
class Signal:
    """How much worse the champion is on new rows than on those the chain knows.

    Attributes:
        gap: mean NLL on the new rows minus that on the known ones, in nats.
        z: the gap over its standard error.
    """

    gap: float
    z: float

    @property
    def drifted(self) -> bool:
        """Say whether the gap is more than chance."""
        return self.z > CRITICAL

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return what is logged of it."""
        return {"forgetting/gap": self.gap, "forgetting/z": self.z}


def rhos(stream: Stream, signal: Signal | None) -> tuple[float, ...]:
    """Return the ρ to try, the usual one first."""
    adaptive = stream.learning.adaptive
    usual = stream.learning.forgetting
    if adaptive is None or signal is None or not signal.drifted or adaptive.drifted == usual:
        return (usual,)
    return usual, adaptive.drifted


def prequential(
    model: AdaptedModel,
    champion: AdapterState,
    memory: Memory,
    selection: Selection,
    contract: Contract,
) -> Signal | None:
    """Return the signal, or None where there are too few rows to tell.

    The memory holds the champion's own scores of its rows; only the selection rows are predicted.
    """
    if min(len(selection.texts), len(memory.rows)) < FEWEST_ROWS:
        return None
    predictor = Predictor(model, champion)
    known = predictor.task.scored(
        memory.probabilities, targets_of(predictor.task, memory.rows, contract)
    )
    new = predictor.task.scored(selection.said(predictor), selection.targets)
    here, there = new.signals["nll"], known.signals["nll"]
    error = np.sqrt(here.var(ddof=1) / len(here) + there.var(ddof=1) / len(there))
    gap = float(here.mean() - there.mean())
    return Signal(gap, gap / max(float(error), 1e-12))
