"""Schedules, locks, retries and pages around a round: the only package that imports Prefect.

`watch` finds pending batches and runs `round` for each; `rollback` moves the champion back. All
three only call `bhpeft.rounds`, which works without them.
"""

import bhpeft  # noqa: F401  (telemetry is off before Prefect is imported)
