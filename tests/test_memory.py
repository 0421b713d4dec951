"""A process does not grow with the shapes it has seen."""

from __future__ import annotations

import os
import subprocess
import sys

# Six hundred shapes of a bfloat16 product, as texts of any length make them.
PROGRAM = """
import bhpeft, torch
from benchmarks.memory import resident
torch.set_num_threads(1)
weight = torch.randn(1536, 384).bfloat16()
rows = torch.randn(616, 384).bfloat16()
torch.nn.functional.linear(rows[:8], weight)
before = resident()
for count in range(16, 616):
    torch.nn.functional.linear(rows[:count], weight)
print((resident() - before) / 2**20)
"""


def test_kernels_of_shapes_long_gone_are_not_kept() -> None:
    """120 MB where oneDNN multiplies; with its own thousand kept it was 400."""
    limits = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    around = {name: value for name, value in os.environ.items() if name not in limits}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=around, check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < 250
