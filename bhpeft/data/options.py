"""Read what a row may be answered by: a column for each option, or one column of lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bhpeft.data.contract import Contract
from bhpeft.tasks.choice import is_there


def options_in(rows: pd.DataFrame, contract: Contract) -> list[list[Any]]:
    """Return each row's options in the order of their labels; one that is not there is no text."""
    if contract.option_list:
        column = rows[contract.options[0]]
        return [[] if row is None or row is pd.NA else list(row) for row in column]
    found: list[list[Any]] = rows[list(contract.options)].to_numpy(dtype=object).tolist()
    return found


def options_there(rows: pd.DataFrame, contract: Contract) -> np.ndarray:
    """Return which options each row has, (N, most) bool."""
    lists = options_in(rows, contract)
    most = max([len(contract.labels), *map(len, lists)])
    there = np.zeros((len(lists), most), dtype=bool)
    for row, options in enumerate(lists):
        there[row, : len(options)] = [is_there(option) for option in options]
    return there
