"""Benchmarks: what bhpeft costs beside what people use today, for anyone to run again.

    python -m benchmarks NAME --json FILE     one benchmark
    python -m benchmarks all                  each that this commit has no figures of yet
    make bench                                the same, into docs/benchmarks.json and its page

To add one, write a module `benchmarks/NAME.py` and add a line to `BENCHMARKS`:

    '''Time X over Y: the page shows this docstring and then NOTES.'''

    NOTES = "Why a target is missed or beaten; may be left out."

    def rows(budget: Budget) -> list[Row]:
        ways = {"stock": stock, "ours": ours}        # callables; the first is what others are over
        found = ratios(ways, budget.share(0.5))      # interleaved, until the share is spent
        return [row("ours ÷ stock", found["ours"], target=target(fp32=0.85, bf16=0.28))]

The rules:

- Every figure is better when lower, and its target is the most it may be. A figure that is not a
  ratio names its unit in `what`; a rate is given as its inverse, a gain as what is lost.
- The page plots what it can read off: `predict` names its rows "PREDICTOR: cost ÷ …" and
  "PREDICTOR: KL to gold ÷ …", and each predictor with both becomes a point.
- `budget.smoke` asks for the smallest sizes that still run every line; `budget.of(full, smoke)`
  chooses. tests/benchmarks runs each that way, and fails on errors, never on times.
- What is not there raises `Skipped("in words")`: a corpus, a peer's package. Labelled text comes
  from `benchmarks.texts`, peers from `benchmarks.peers`, memory from `benchmarks.memory`.
- One thread, set by the harness; one process a benchmark, or one a core where what is run side by
  side is alike, as the seeds of `time_to_accuracy`. A slow way is what the repeats adapt to.
- `rows` must end within its seconds: at three times as many the run cuts it off and goes on.
"""

from __future__ import annotations

# What each may take, in seconds: 1,310 together. Starting and what cannot be cut came to 500 on top
# beside a core at full load, so that all of them stay under half an hour even there.
BENCHMARKS: dict[str, float] = {
    "train_step": 60,
    "train_memory": 75,
    "cached_epoch": 45,
    "epoch": 60,
    "stream_tokens": 20,
    "startup": 15,
    "overhead": 45,
    "round": 220,
    "rounds": 195,
    "predict": 165,
    "time_to_accuracy": 190,
    "rows": 220,
}
