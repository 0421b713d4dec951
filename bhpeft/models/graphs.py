"""Replay a prediction's passes as CUDA graphs: a launch a pass instead of one a kernel.

A small model's pass is hundreds of kernels that take less time than their launches. Recorded once,
they are launched together, on memory that stays where it is; so a recording serves one shape. Rows
are therefore brought to few shapes: tokens up to the next multiple of `TOKENS`, rows up to the next
power of two, what is added hidden by the mask and cut off again. A shape is recorded when it comes
again, and so are `SHAPES` of them at most: others run as they are, and so does everything where a
recording fails, since not every model can be recorded.

What records is a parameter: on CUDA torch's graphs, in tests on a CPU a stand-in.

Source: PyTorch's notes on CUDA graphs, "whole network capture" and "usage with dynamic shapes".
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Minibatch = Mapping[str, Tensor]
Run = Callable[[Minibatch], Tensor]
# Records a run on static inputs: (run, inputs) → what fills the output again, and the output.
Record = Callable[[Run, Minibatch], tuple[Callable[[], None], Tensor]]

TOKENS = 16
SHAPES = 16
# Runs before a recording, in which libraries choose their kernels and make their work space.
WARM_UP = 3


@dataclass
class Recorded:
    """One shape's recording: its inputs, how to play it, and where its output is."""

    inputs: dict[str, Tensor]
    play: Callable[[], None]
    output: Tensor


@dataclass
class Graphs:
    """Run minibatches of one recipe, recorded by shape.

    Attributes:
        run: makes (S·B, C) of a minibatch of B rows, draws-major.
        draws: S.
        pad: the padding token.
        record: records; `cuda_graph` on a GPU.
        device: where the inputs of a recording have to be.
    """

    run: Run
    draws: int
    pad: int
    record: Record
    device: torch.device | str = "cpu"
    recorded: dict[tuple[int, int], Recorded] = field(default_factory=dict)
    seen: Counter[tuple[int, int]] = field(default_factory=Counter)
    able: bool = True

    def __call__(self, minibatch: Minibatch) -> Tensor:
        """Return what `run` makes of a minibatch."""
        rows, tokens = minibatch["input_ids"].shape
        shape = bucket(rows, tokens)
        self.seen[shape] += 1
        if shape not in self.recorded and not self._may_record(shape):
            return self.run(minibatch)
        here = {name: minibatch[name].to(self.device) for name in ("input_ids", "attention_mask")}
        padded = widened(here, shape, self.pad)
        found = self.recorded.get(shape) or self._recording(shape, padded)
        if found is None:
            return self.run(minibatch)
        for name, static in found.inputs.items():
            static.copy_(padded[name], non_blocking=True)
        found.play()
        # The next pass writes over the output.
        logits = found.output.view(self.draws, shape[0], -1)[:, :rows].clone()
        return logits.flatten(0, 1)

    def _may_record(self, shape: tuple[int, int]) -> bool:
        return self.able and self.seen[shape] > 1 and len(self.recorded) < SHAPES

    def _recording(self, shape: tuple[int, int], padded: Minibatch) -> Recorded | None:
        inputs = {name: tensor.clone() for name, tensor in padded.items()}
        try:
            play, output = self.record(self.run, inputs)
        except RuntimeError as problem:
            # A model that looks at its numbers on the way cannot be recorded; it runs all the same.
            logging.getLogger(__name__).info("Passes are not recorded: %s", problem)
            self.able = False
            return None
        self.recorded[shape] = Recorded(inputs, play, output)
        return self.recorded[shape]


def bucket(rows: int, tokens: int) -> tuple[int, int]:
    """Return the shape a minibatch is brought to."""
    return 1 << (rows - 1).bit_length(), -(-tokens // TOKENS) * TOKENS


def widened(minibatch: Minibatch, shape: tuple[int, int], pad: int) -> dict[str, Tensor]:
    """Return a minibatch brought to a shape; rows that are added hold one token that is seen."""
    ids, mask = minibatch["input_ids"], minibatch["attention_mask"]
    rows, tokens = ids.shape
    wide = ids.new_full(shape, pad)
    seen = mask.new_zeros(shape)
    wide[:rows, :tokens], seen[:rows, :tokens] = ids, mask
    # A row that sees nothing would divide by nothing.
    seen[rows:, 0] = 1
    return {"input_ids": wide, "attention_mask": seen}


def cuda_graph(run: Run, inputs: Minibatch) -> tuple[Callable[[], None], Tensor]:
    """Record a run as a CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run(inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run(inputs)
    return graph.replay, output
