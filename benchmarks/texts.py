"""Give real labelled text: a corpus in `$BHPEFT_DATA`, or the demo's.

`$BHPEFT_DATA` is a folder with a folder for each corpus and in it one Parquet file with the columns
text, label and split ("train" or "test"). The demo's corpus is what `make setup` fetches.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.budget import Skipped

DEMO = Path(".cache/vader")


def labelled(name: str, split: str | None = None) -> pd.DataFrame:
    """Return a corpus of `$BHPEFT_DATA`: text, label; texts once each, in a fixed random order.

    Raises:
        Skipped: there is no such corpus here.
    """
    root = os.environ.get("BHPEFT_DATA")
    if not root:
        raise Skipped(f"$BHPEFT_DATA is not set: a folder that holds {name}/*.parquet")
    files = sorted(Path(root, name).glob("*.parquet"))
    if not files:
        raise Skipped(f"there is no {name}/*.parquet in $BHPEFT_DATA")
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    if split is not None:
        rows = rows[rows["split"] == split]
    return _shuffled(rows.drop_duplicates("text"))


def opinions() -> pd.DataFrame:
    """Return the demo's corpus: some 14,000 short texts, with text, label and domain.

    Raises:
        Skipped: `make setup` did not fetch it.
    """
    from bhpeft.demo_data import prepare
    from bhpeft.errors import ConfigError

    with tempfile.TemporaryDirectory() as folder:
        try:
            files = prepare(DEMO, folder)
        except ConfigError as problem:
            raise Skipped(
                f"the demo's corpus is not in {DEMO}; `make setup` fetches it"
            ) from problem
        rows = pd.concat([pd.read_parquet(file) for file in files.values()], ignore_index=True)
    return _shuffled(rows.drop_duplicates("text"))


def _shuffled(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sample(frac=1.0, random_state=0).reset_index(drop=True)
