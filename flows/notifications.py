"""Call people: automations that send a stream's events to a notification block of Prefect's.

The block (Slack, Teams, e-mail, PagerDuty, a custom webhook, …) is made once in Prefect, with its
secret; a stream file names it: `[notify] block = "slack-webhook/on-call"`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from bhpeft.errors import ConfigError
from flows.events import ROUND, STALE, resource_of

if TYPE_CHECKING:
    from uuid import UUID

    from bhpeft.stream import Stream

SUBJECT = "bhpeft: {{ event.payload.stream }} {{ event.event }}"
BODY = "{{ event.payload.message }}"


def name_of(stream: str) -> str:
    """Return the name of the automation that tells people about a stream."""
    return f"bhpeft: tell people about {stream}"


def ensure_notification(stream: Stream) -> None:
    """Install, change or remove the automation that a stream's [notify] asks for.

    Raises:
        ConfigError: the server has no block of that name.
    """
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(name_of(stream.name))
        if not stream.notify.block:
            for automation in found:
                client.delete_automation(automation.id)
            return
        wanted = _automation(stream, _block(client, stream))
        if not found:
            client.create_automation(wanted)
            return
        client.update_automation(found[0].id, wanted)
        for extra in found[1:]:
            client.delete_automation(extra.id)


def ensure_all(home: Path | None = None) -> list[str]:
    """Install what every stream's [notify] asks for, on a fleet; return the streams' names."""
    from bhpeft.stream import all_streams

    streams = all_streams(home)
    for stream in streams:
        ensure_notification(stream)
    return [stream.name for stream in streams]


def _automation(stream: Stream, block: UUID) -> AutomationCore:
    events = {STALE if name == "stale" else ROUND + name for name in stream.notify.on}
    trigger = EventTrigger(
        expect=events,
        match=ResourceSpecification({"prefect.resource.id": [resource_of(stream.name)]}),
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(),
    )
    send = SendNotification(block_document_id=block, subject=SUBJECT, body=BODY)
    return AutomationCore(
        name=name_of(stream.name),
        description=f"Sends {', '.join(stream.notify.on)} to {stream.notify.block}.",
        trigger=trigger,
        actions=[send],
    )


def _block(client: SyncPrefectClient, stream: Stream) -> UUID:
    kind, _, name = stream.notify.block.partition("/")
    try:
        return client.read_block_document_by_name(name, kind, include_secrets=False).id
    except ObjectNotFound as problem:
        raise ConfigError(
            f"Prefect has no block {stream.notify.block!r}, which [notify] of {stream.name} names",
            expected='a notification block as "TYPE/NAME", such as "slack-webhook/on-call"',
            remedy="Create it in Prefect's page under Blocks; `prefect block ls` lists them.",
        ) from problem
