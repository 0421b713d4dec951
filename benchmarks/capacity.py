"""How many streams a set of machines carries: `python -m benchmarks.capacity`.

What a round costs outside of the GPU is measured here and now: MLflow calls against a real server
(on PostgreSQL where it is installed), the bytes it stores, a Prefect flow run, the start of its
process. What it costs on the GPU is yours to say (`--gpu-seconds`). A simulated day of every
stream then shows how long batches wait, and a division shows what saturates first.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.capacity_costs import Costs, measured
from benchmarks.machine import machine
from benchmarks.queues import DAY, POLICIES, daily, summary, waits


def main() -> int:
    """Measure, simulate, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--gpu-seconds", type=float, nargs="+", default=[30.0, 120.0, 600.0])
    parser.add_argument("--json", type=Path, default=Path("docs/capacity.json"))
    parser.add_argument("--docs", type=Path, help="write the page here")
    parser.add_argument("--from-json", action="store_true", help="measure nothing, use the file")
    asked = parser.parse_args()
    # Asked to end, it takes its servers along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if asked.from_json:
        found = json.loads(asked.json.read_text())
        costs = Costs(**found["costs"])
    else:
        costs = measured()
    found = {
        "machine": machine() if not asked.from_json else found["machine"],
        "streams": asked.streams,
        "costs": asdict(costs),
        "queues": queues(asked.streams, asked.gpu_seconds),
        "saturation": saturation(asked.streams, costs),
    }
    asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if asked.docs:
        from benchmarks.capacity_page import page
        from benchmarks.capacity_plots import draw

        draw(found, asked.docs.with_suffix(""))
        asked.docs.write_text(page(found), encoding="utf-8")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


def queues(streams: int, gpu_seconds: list[float]) -> list[dict[str, Any]]:
    """Return how long batches wait, for as many GPUs as are busy 60 and 85 % of the time."""
    found = []
    for seconds in gpu_seconds:
        for busy in (0.6, 0.85):
            gpus = max(1, round(streams * seconds / DAY / busy))
            for window, when in ((DAY, "over the day"), (6 * 3600.0, "within 6 hours")):
                load = daily(streams, seconds, window=window)
                for shared in (True, False):
                    waited = waits(load, gpus, shared=shared, policy="first")
                    row = {"gpu_seconds": seconds, "gpus": gpus, "landing": when}
                    row |= {"queue": "one for all" if shared else "one a GPU"}
                    found.append(row | summary(waited))
    return found + fairness(streams, gpu_seconds[0])


def fairness(streams: int, seconds: float) -> list[dict[str, Any]]:
    """Return how long the others wait when 1 stream in 500 brings 100 batches at midnight."""
    heavy = max(1, streams // 500)
    load = daily(streams, seconds, heavy=heavy)
    gpus = max(1, round((streams + heavy * 100) * seconds / DAY / 0.85))
    found = []
    for policy in POLICIES:
        waited = waits(load, gpus, policy=policy)
        others = summary(waited[load.stream >= heavy])
        row = {"gpu_seconds": seconds, "gpus": gpus, "landing": "with backlogs", "queue": policy}
        found.append(row | others)
    return found


def saturation(streams: int, costs: Costs) -> dict[str, float]:
    """Return the share of each server's measured most that the streams use, evenly over a day.

    Polling is a flow run that finds nothing: every 5 minutes for each stream, were it done so.
    """
    rounds = streams / DAY
    polls = streams / 300.0
    return {
        "mlflow": rounds * costs.calls / costs.calls_a_second,
        "mlflow, cores": rounds * costs.round_cpu,
        "prefect": rounds / costs.flows_a_second,
        "prefect, cores": rounds * costs.flow_cpu,
        "postgresql, cores": rounds * (costs.round_database_cpu + costs.flow_database_cpu),
        "prefect, polled every 5 minutes": polls / costs.flows_a_second,
        "cores that start processes": rounds * costs.start_cpu,
        "cores that start processes, polled every 5 minutes": polls * costs.start_cpu,
        "object store, MB a second": rounds * costs.stored_bytes / 1e6,
        "object store, GB a day": streams * costs.stored_bytes / 1e9,
    }


if __name__ == "__main__":
    sys.exit(main())
