"""Set the environment every test runs in; it has to be there before torch and MLflow are imported.

Threads that spin while they wait cost neighbours 10 to 50 times, nothing is fetched from a hub, and
nobody is told that tests run.
"""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A test says where its registry is; the developer's own must not be written to by accident.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("BHPEFT_HOME", None)

# Models of two layers are slower on two threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What this machine was measured to be fastest in is kept apart from the developer's own.
os.environ.setdefault("BHPEFT_CACHE", os.path.join(tempfile.gettempdir(), "bhpeft-tests"))

pytest_plugins = ["tests.object_store"]
