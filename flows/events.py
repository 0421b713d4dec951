"""What bhpeft tells Prefect's event system, and so anybody who listens there.

| event | when |
|---|---|
| `bhpeft.batch.landed` | a batch landed; an automation wakes the stream's watch |
| `bhpeft.round.promoted`, `.refused`, `.held`, `.quarantined` | a round ended so |
| `bhpeft.round.failed`, `.parked` | a round failed; its batch now waits for a person |
| `bhpeft.stream.stale` | no batch came in time |

The resource is `bhpeft.stream.NAME`; the payload has `message`, one line for a person, and facts.
An event only tells: what is to be done is read from the landing folder and the registry, so one
that is lost loses nothing.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener
from uuid import uuid4

logger = logging.getLogger(__name__)

LANDED = "bhpeft.batch.landed"
STALE = "bhpeft.stream.stale"
ROUND = "bhpeft.round."
ENDINGS = ("promoted", "refused", "held", "quarantined", "failed", "parked")

# Landing must not wait for a server that hangs; polling finds the batch anyway.
PATIENCE = 2.0


def resource_of(stream: str) -> str:
    """Return the id of a stream as a resource of events."""
    return f"bhpeft.stream.{stream}"


def tell(event: str, stream: str, message: str, **facts: Any) -> None:
    """Emit an event from a flow run, which Prefect relates to it."""
    from prefect.events import emit_event

    emit_event(
        event,
        resource={"prefect.resource.id": resource_of(stream), "prefect.resource.name": stream},
        payload={"stream": stream, "message": message, **facts},
    )


def tell_landed(home: Path, stream: str, batch_id: str, rows: int) -> bool:
    """Tell the Prefect server, if one is known and answers, that a batch landed.

    Sent by plain HTTP, as any producer can: importing Prefect would double the time `land` takes.
    Never raises for a server's sake: the batch has landed whether or not anybody heard.
    """
    from flows.servers import running

    api = os.environ.get("PREFECT_API_URL", "")
    if not api:
        servers = running(home)
        api = servers.prefect.api if servers and servers.prefect else ""
    if not api:
        return False
    message = f"{stream}: {batch_id} landed with {rows} rows"
    facts = {"stream": stream, "message": message, "batch_id": batch_id, "rows": rows}
    try:
        _post(api, LANDED, stream, facts)
    except (URLError, OSError, ValueError) as problem:
        logger.info("nobody was told that %s landed: %s", batch_id, problem)
        return False
    return True


def _post(api: str, event: str, stream: str, payload: dict[str, Any]) -> None:
    body = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": event,
        "resource": {
            "prefect.resource.id": resource_of(stream),
            "prefect.resource.name": stream,
        },
        "payload": payload,
    }
    request = Request(f"{api.rstrip('/')}/events", json.dumps([body]).encode(), _headers())
    # A server on this machine is not behind the proxy that the environment may name.
    local = any(host in api for host in ("//127.", "//localhost"))
    opener = build_opener(ProxyHandler({})) if local else build_opener()
    opener.open(request, timeout=PATIENCE).close()


def _headers() -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    elif key := os.environ.get("PREFECT_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    return headers
