"""Questions with two to four options, and a contract for them."""

from __future__ import annotations

import numpy as np
import pandas as pd

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:bhpeft:questions
name: questions
version: 1.0.0
status: active
schema:
  - name: questions
    properties:
      - name: question
        logicalType: string
        required: true
        logicalTypeOptions: {minLength: 1}
        customProperties: [{property: bhpeft.role, value: question}]
      - {name: a, logicalType: string, customProperties: [{property: bhpeft.role, value: option}]}
      - {name: b, logicalType: string, customProperties: [{property: bhpeft.role, value: option}]}
      - {name: c, logicalType: string, customProperties: [{property: bhpeft.role, value: option}]}
      - name: answer
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: answer}]
        quality:
          - {type: library, metric: invalidValues, arguments: {validValues: [A, B, C]}, mustBe: 0}
      - name: kind
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: slice}]
"""

ANIMALS = ["dog", "cat", "horse", "cow", "sheep", "mouse", "wolf", "bear"]
FRUIT = ["apple", "pear", "plum", "cherry", "grape", "lemon", "peach", "melon"]


def questions(batch_id: str, rows: int = 100) -> pd.DataFrame:
    """Return questions of which option is the animal; every third has two options only."""
    random = np.random.default_rng([ord(letter) for letter in batch_id])
    found = []
    for row in range(rows):
        count = 2 if row % 3 == 0 else 3
        right = int(random.integers(count))
        options: list[str | None] = [str(one) for one in random.choice(FRUIT, 3, replace=False)]
        options[right] = str(random.choice(ANIMALS))
        options[count:] = [None] * (3 - count)
        kind = "two" if count == 2 else "three"
        asked = f"Which of these is an animal? ({batch_id} {row})"
        found.append((asked, *options, "ABC"[right], kind))
    return pd.DataFrame(found, columns=["question", "a", "b", "c", "answer", "kind"])
