"""The capacity figures as a page: `docs/capacity.md`."""

from __future__ import annotations

from typing import Any

PAGE = """\
# Capacity: how many streams a set of machines carries

Written by `python -m benchmarks.capacity --docs docs/capacity.md`; do not edit. The first table was
measured on {cpus} cores ({cpu}); run it on yours. Calls and flow runs a second depend on what else
runs there, CPU seconds hardly. The queues are a simulation of one day (`benchmarks/queues.py`), the
last table a division of the two.

## What a round costs outside of the GPU

| | |
|---|---:|
| servers' database | {database} |
| MLflow calls of a round | {calls} |
| one MLflow call, alone | {call_ms:.0f} ms |
| MLflow calls a second, 8 clients, one server process | {calls_a_second:.0f} |
| stored by a round of the smallest model (posterior, figures, reports) | {stored_kb:.0f} kB |
| CPU of MLflow for a round's calls and files | {round_cpu:.2f} s |
| and of PostgreSQL | {round_database_cpu:.2f} s |
| CPU until a round's process is ready | {start_cpu:.1f} s |
| a flow run with ten tasks, alone | {flow_seconds:.2f} s |
| flow runs a second, 8 clients, one server process | {flows_a_second:.1f} |
| CPU of Prefect for one | {flow_cpu:.2f} s |
| and of PostgreSQL | {flow_database_cpu:.2f} s |

## How long batches wait for a GPU

{streams:,} streams, one batch a day each, oldest first. The seconds on a GPU vary by half.

![waits](capacity/waits.svg)

{queues}

**One queue for all GPUs of a size beats one queue a GPU**, and by more the busier they are: a
stream bound to a GPU waits for that one while another idles. Give a GPU its own queue only where a
stream must stay on it.

## Who waits for whom

One stream in 500 lands 100 batches at midnight; the waits are those of all *other* streams.

{fairness}

A watch has so many rounds and then queues the next one: `[schedule] rounds_per_watch`, 3 by
default (`watch 3`); with 0 it learns all that is pending of its stream first (`drain`). Prefect
starts late runs in any order (`any`). Where backlogs are common, give the streams that bring them a
work queue of their own with a concurrency limit, which comes nearer to `fair`.

## What saturates first

{streams:,} streams, their rounds spread evenly over the day. A share of 1 is all that one server
process answered here, or one core.

![saturation](capacity/saturation.svg)

{saturation}

The object store of these runs is a stand-in (`moto`) whose speed says nothing of yours: what it has
to take is in the table. A round's files go through MLflow's process, so its cores come first.

Polling is what does not scale: a watch that finds nothing still starts a process. With many streams
let `bhpeft land` wake the round by an event and poll once a day.

{limit}
"""

SERVERS_FIRST = """\
PostgreSQL took {calls:.0%} of the CPU that answering MLflow's calls took, and {flows:.0%} of that
of Prefect's flow runs: the servers' own processes saturate first, and both may run several on one
database."""
DATABASE_FIRST = """\
PostgreSQL took {calls:.0%} of the CPU that answering MLflow's calls took, and {flows:.0%} of that
of Prefect's flow runs: it saturates no later than they do, so give it cores before them."""
NO_DATABASE = """\
PostgreSQL was not installed where this was measured, so nothing is said of when it saturates."""


def page(found: dict[str, Any]) -> str:
    """Return the page."""
    costs, queues = found["costs"], found["queues"]
    fair = [row for row in queues if row["landing"] == "with backlogs"]
    return PAGE.format(
        cpus=found["machine"]["cpus"],
        cpu=found["machine"]["processor"],
        call_ms=1000 * costs["call_seconds"],
        stored_kb=costs["stored_bytes"] / 1000,
        limit=_limit(costs),
        streams=found["streams"],
        queues=_waits([row for row in queues if row not in fair], "queue"),
        fairness=_waits(fair, "policy"),
        saturation=_shares(found["saturation"], found["streams"]),
        **{k: costs[k] for k in costs if k not in ("call_seconds", "stored_bytes")},
    )


def _shares(shares: dict[str, float], streams: int) -> str:
    lines = ["| | share, or as named | full at so many streams |", "|---|---:|---:|"]
    for name, share in shares.items():
        limited = share > 0 and not name.startswith("object store")
        full = f"{streams / share:,.0f}" if limited else ""
        lines.append(f"| {name} | {share:.3g} | {full} |")
    return "\n".join(lines)


def _limit(costs: dict[str, Any]) -> str:
    """Say which saturates first, the servers or their database, as far as was measured."""
    if costs["database"] != "PostgreSQL":
        return NO_DATABASE
    calls, flows = (
        costs[f"{of}_database_cpu"] / (costs[f"{of}_database_cpu"] + costs[f"{of}_cpu"])
        for of in ("round", "flow")
    )
    text = SERVERS_FIRST if max(calls, flows) < 0.5 else DATABASE_FIRST
    return text.format(calls=calls, flows=flows)


def _waits(rows: list[dict[str, Any]], named: str) -> str:
    head = f"| GPU s | GPUs | batches land | {named} | median | 95 % | 99 % | longest |"
    lines = [head, "|---:|---:|---|---|---:|---:|---:|---:|"]
    for row in rows:
        times = " | ".join(_span(row[name]) for name in ("p50", "p95", "p99", "max"))
        facts = f"{row['gpu_seconds']:g} | {row['gpus']} | {row['landing']} | {row['queue']}"
        lines.append(f"| {facts} | {times} |")
    return "\n".join(lines)


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
