"""Events reach people and watches: a real Prefect server, a real receiver of what is sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from bhpeft.errors import ConfigError, Diverged
from bhpeft.operation import Notify
from bhpeft.rounds import Turn
from bhpeft.stream import Stream
from flows.environment import flush_prefect
from flows.events import tell_landed
from flows.notifications import ensure_notification, name_of
from flows.round import conduct
from flows.servers import Servers, serving
from tests.flows.test_round import batches, ends

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, prefect_port=0, mlflow=False) as found:
        yield found


@pytest.fixture
def received() -> Iterator[tuple[str, list[Any]]]:
    """Listen on this machine; give the address, and the list of what is posted there."""
    bodies: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", bodies
    finally:
        server.shutdown()
        server.server_close()


def stream(home: Path, **notify: Any) -> Stream:
    return Stream.model_validate(
        {
            "name": "reviews",
            "home": home,
            "data": {"contract": "x.yaml"},
            "model": {"base": "tiny"},
            "notify": Notify(**notify),
        }
    )


def until(condition: Callable[[], Any], timeout: float = 60) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return found


def run_round(learn: Any, waiting: list[Any]) -> State[Any]:
    """Run a round whose learning is given, and send what it tells."""

    @flow(name="round")
    def tiny_round() -> State[Any]:
        def turn() -> Turn:
            return Turn(tuple(waiting), tuple(waiting))

        return conduct(stream(Path()), None, turn, learn, set())  # type: ignore[arg-type]

    state = tiny_round(return_state=True)
    flush_prefect()
    return state


def test_people_hear_of_what_the_stream_file_names_and_of_nothing_else(
    servers: Servers, received: tuple[str, list[Any]]
) -> None:
    """Held, failed and parked arrive at the webhook with a line each; a promotion does not.

    Installing it again changes nothing, and without [notify] it is gone.
    """
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    url, bodies = received
    sends = {"subject": "{{subject}}", "body": "{{body}}"}
    CustomWebhookNotificationBlock(name="desk", url=url, json_data=sends).save("on-call")
    asked = stream(servers.home, block="custom-webhook/on-call", on=("held", "failed", "parked"))
    for _ in range(2):
        ensure_notification(asked)
    with get_client(sync_client=True) as client:
        assert len(client.read_automations_by_name(name_of("reviews"))) == 1
    time.sleep(3)  # the server reads its automations every second or two

    waiting = batches("b1", "b2")

    def diverges(**_: Any) -> None:
        waiting.clear()
        raise Diverged("The loss is NaN at step 3")

    run_round(ends("promoted"), waiting)
    run_round(ends("held"), waiting)
    run_round(diverges, waiting)

    until(lambda: len(bodies) >= 3)
    assert sorted(body["subject"] for body in bodies) == [
        f"bhpeft: reviews bhpeft.round.{ending}" for ending in ("failed", "held", "parked")
    ]
    said = {body["subject"].rsplit(".")[-1]: body["body"] for body in bodies}
    assert said["held"] == "reviews · b1 · held: all gates passed"
    assert said["failed"].startswith("reviews · b1 failed: Diverged: The loss is NaN")

    ensure_notification(stream(servers.home))
    with get_client(sync_client=True) as client:
        assert client.read_automations_by_name(name_of("reviews")) == []


def test_a_block_nobody_made_is_named(servers: Servers) -> None:
    """Said when the stream is deployed, not when the first alarm is lost."""
    with pytest.raises(ConfigError, match=r"no block 'slack-webhook/nobody'.*prefect block ls"):
        ensure_notification(stream(servers.home, block="slack-webhook/nobody"))


def test_landing_tells_the_server_there_is_and_never_minds_that_there_is_none(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is the one that the stream's automation waits for."""
    assert tell_landed(servers.home, "reviews", "b7", 120)
    assert servers.prefect is not None

    def heard() -> list[dict[str, Any]]:
        body = json.dumps({"filter": {"event": {"name": ["bhpeft.batch.landed"]}}}).encode()
        api = servers.prefect.api if servers.prefect else ""
        asked = Request(f"{api}/events/filter", body, {"Content-Type": "application/json"})
        with build_opener(ProxyHandler({})).open(asked, timeout=10) as answer:
            return list(json.load(answer)["events"])

    (event,) = until(heard)
    assert event["resource"]["prefect.resource.id"] == "bhpeft.stream.reviews"
    assert (event["payload"]["batch_id"], event["payload"]["rows"]) == ("b7", 120)

    monkeypatch.delenv("PREFECT_API_URL")
    assert not tell_landed(tmp_path, "reviews", "b8", 1)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert not tell_landed(tmp_path, "reviews", "b8", 1)
