"""Say which labels a batch could know: a contract may add some, and never take one away.

The head's rows are in the order in which the chain met the labels, so the labels of any earlier
contract are its first few. What a batch's contract did not know yet is no answer of its rows: they
are trained and scored without it.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract
from bhpeft.errors import StateError
from bhpeft.learning.state import Spec


def in_learned_order(contract: Contract, learned: Spec | None) -> Contract:
    """Return the contract with its labels in the order of the head's rows, new ones at the end.

    Raises:
        StateError: a label the chain has learned is not in the contract; it names which.
    """
    if learned is None:
        return contract
    gone = [label for label in learned.labels if label not in contract.labels]
    new = [label for label in contract.labels if label not in learned.labels]
    if gone:
        raise StateError(
            f"The contract {contract.name} no longer has labels the chain has learned",
            found=f"no {', '.join(gone)}" + (f", but {', '.join(new)}" if new else ""),
            expected=f"all of {', '.join(learned.labels)}; others may be added",
            remedy="Put them back (a label without rows does no harm), or start a new stream. A "
            "renamed label is another label.",
        )
    return replace(contract, labels=(*learned.labels, *new))


def known_to(batch: Batch, contract: Contract, learned: Spec | None) -> int:
    """Return how many of the contract's labels the version knew that the batch was landed under."""
    asked = _numbers(batch.contract_version)
    if learned is None or asked >= _numbers(contract.version):
        return len(contract.labels)
    earlier = [
        one.labels or len(learned.labels)
        for one in learned.absorbed
        if one.contract_version and _numbers(one.contract_version) <= asked
    ]
    return max(earlier, default=len(contract.labels))


def known_to_rows(batches: pd.Series, learned: Spec | None) -> np.ndarray:
    """Return how many labels each row's batch knew, (N,); 0 where that is not on record."""
    known = {one.batch_id: one.labels for one in learned.absorbed} if learned else {}
    return np.array([known.get(str(batch_id), 0) for batch_id in batches], dtype=np.int64)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(piece) for piece in re.findall(r"\d+", version))
