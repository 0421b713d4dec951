"""Short reviews that a model of one layer can learn to tell apart."""

from __future__ import annotations

import numpy as np
import pandas as pd

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:bhpeft:tiny-reviews
name: tiny-reviews
version: 1.0.0
status: active
schema:
  - name: reviews
    properties:
      - name: text
        logicalType: string
        required: true
        logicalTypeOptions: {minLength: 1}
        customProperties: [{property: bhpeft.role, value: text}]
      - name: label
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: label}]
        quality:
          - {type: library, metric: invalidValues, arguments: {validValues: [bad, good]},
             mustBe: 0}
      - name: domain
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: slice}]
"""

THINGS = ["film", "book", "song", "dinner", "hotel", "phone", "match", "lecture", "play", "garden"]
GOOD = ["lovely", "brilliant", "charming", "delightful", "superb", "wonderful"]
BAD = ["dreadful", "boring", "clumsy", "awful", "terrible", "tedious"]
ENDS = ["for me", "from start to end", "as I said", "all in all", "this time", "once more"]


def reviews(batch_id: str, rows: int = 120, **spoilt: object) -> pd.DataFrame:
    """Return `rows` labelled reviews; the id is their seed, `spoilt` replaces whole columns."""
    random = np.random.default_rng([ord(letter) for letter in batch_id])
    good = random.random(rows) < 0.5
    words = [
        (random.choice(GOOD if is_good else BAD), random.choice(THINGS), random.choice(ENDS))
        for is_good in good
    ]
    frame = pd.DataFrame(
        {
            "text": [f"a {a} {b} {c}, {batch_id} {i}" for i, (a, b, c) in enumerate(words)],
            "label": np.where(good, "good", "bad"),
            "domain": np.where(random.random(rows) < 0.5, "home", "away"),
        }
    )
    return frame.assign(**spoilt)  # type: ignore[arg-type]
