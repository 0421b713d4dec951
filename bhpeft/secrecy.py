"""Keep passwords out of whatever is printed, logged or recorded, and telemetry off.

An address may carry a log-in (`https://user:password@host`, `postgresql://…`). It is used as it is
and shown without it: every error of ours, every tag that holds somebody else's error, and every
link goes through here.
"""

from __future__ import annotations

import os
import re

# Each library has a switch of its own: DO_NOT_TRACK=1 does not silence MLflow, which wants "true".
SILENCE = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

# A password may hold an @; a host cannot, so the login ends at the last one before the path.
_LOGIN = re.compile(r"(?<=://)[^ \t\r\n/?#'\"]*@")
_NAMED = re.compile(
    r"(?i)((?:password|passwd|secret|(?:access|auth|api)_token|(?:access|api)_key|auth_string)"
    r"[\"']?\s*[=:]\s*[\"']?)[^\s&\"',;]+"
)


def silence() -> None:
    """Turn the telemetry of everything we use off, where the user has not said otherwise.

    The libraries read this when they are imported, so it comes first: `import bhpeft` calls it.
    """
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)


def without_secrets(text: str) -> str:
    """Return a text with log-ins in addresses, and values called password or the like, left out."""
    return _NAMED.sub(r"\g<1>***", _LOGIN.sub("***@", text))


def without_login(address: str) -> str:
    """Return an address that can be shown and still be opened: no user and no password in it."""
    return _LOGIN.sub("", address)
