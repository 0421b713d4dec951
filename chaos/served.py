"""A stage with the servers of a fleet: MLflow and Prefect on PostgreSQL, and the real flow.

The servers take half a minute to start, so they are started once, and each telling has the stream
to itself: when it is over, what MLflow and Prefect know of it is put under another name. What lands
lands in a folder; the object store, where MLflow keeps files, has faults of its own (`store.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bhpeft import errors
from chaos import services, stories
from chaos.forks import Ended, in_child
from chaos.points import Points, WatchedClient, watch_requests
from chaos.stage import SLOWEST, Run, Stage, entered, expect
from chaos.world import World, furnish, opened
from flows.environment import HABITS, SILENCE, applied

STREAM = "chaos"
ATTEMPTS = 6
# Seconds after which a lock that nobody holds is replaced, where the product waits for four
# minutes: a holder who lives is to be spared by this too, and has three heartbeats for it.
UNHELD = 100.0


class Served(Stage):
    """A stage whose rounds are told by the flow `watch`, with servers that can be killed."""

    timed = False

    def set_up(self, down: ExitStack) -> None:
        """Start the servers, and tell this process and its children of them."""
        # PostgreSQL, which is not root, must get at its folder.
        self.place("").chmod(0o755)
        self.servers = services.Services(self.place(""), "127.0.0.1")
        known = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")
        # Prefect reads its settings when it is imported, which is later.
        os.environ |= {**HABITS, **SILENCE, "PREFECT_HOME": str(self.place("client"))}
        os.environ |= {name: self.servers.env[name] for name in known}
        self._told = 0
        self._another: tuple[services.Service, str] | None = None
        down.callback(self._stop)
        self.servers.start()

    def _stop(self) -> None:
        if self._another is not None:
            self._another[0].stop()
        self.servers.stop()

    def furnish(self, home: Path) -> None:
        """Fill the template; there is no database in it."""
        furnish(home, stories.BATCHES)

    def world(self, home: Path) -> World:
        """Return the world of a home, at the servers."""
        return opened(home, STREAM, self.servers.env["MLFLOW_TRACKING_URI"])

    def tell(self, home: Path, story: str, points: Points) -> dict[str, Any]:
        """Land what a story lands, and watch."""
        self.land(home, story)
        return self.watch(home, points)

    def land(self, home: Path, story: str) -> None:
        """Land what a story lands."""
        world = entered(home)
        for kind, *rest in stories.STORIES[story]:
            if kind == "land":
                world.land(*rest)

    def watch(self, home: Path, points: Points, prefect: str = "") -> dict[str, Any]:
        """Run the flow `watch`, as a schedule does; return the state it ends in.

        Args:
            home: the stream's.
            points: are observed.
            prefect: the address of a server other than the stage's first.
        """
        import mlflow

        real = mlflow.MlflowClient
        mlflow.MlflowClient = lambda *args, **kwargs: WatchedClient(real(*args, **kwargs), points)
        watch_requests(points, self.servers.env["PREFECT_API_URL"])
        from flows import holders, watch

        holders.UNHELD = UNHELD
        failed: list[str] = []
        watch.round_flow = noting(watch.round_flow, failed)
        entered(home)
        try:
            with applied({"PREFECT_API_URL": prefect or self.servers.env["PREFECT_API_URL"]}):
                state = watch.watch(stream=STREAM, home=str(home), by="chaos", return_state=True)
        except Exception as problem:  # Prefect could not even say how it ended.
            return {"state": "", "rounds": failed, "own": type(problem).__name__}
        own = error_of(state) if state.is_failed() and not failed else ""
        return {"state": state.name, "rounds": failed, "own": own}

    def watch_until_done(self, run: Run, what: str, home: Path) -> None:
        """Watch again, as a schedule does, until there is nothing left to do."""
        for _ in range(ATTEMPTS):
            self.all_up()
            if in_child(lambda _: self.left(home), SLOWEST).said is False:
                return
            note_ending(run, what, in_child(lambda _: self.watch(home, Points()), SLOWEST))

    def left(self, home: Path) -> bool:
        """Say whether a watch would find something to do."""
        from bhpeft.rounds import turn

        world = self.world(home)
        found = turn(world.stream, world.registry)
        return bool(found.batches) or found.unfinished

    def kill(self, server: str) -> None:
        """Kill a server and all it started, at once."""
        getattr(self.servers, server).kill()

    def begin(self, server: str) -> None:
        """Start a server again; it may not answer yet when this returns."""
        if server == "postgres":
            self.servers.postgres.start()
        else:
            getattr(self.servers, server).start(wait=False)

    def all_up(self) -> None:
        """Start what does not run, and wait until all answer."""
        if not self.servers.postgres.alive():
            self.servers.postgres.start()
        for service in (self.servers.mlflow, self.servers.prefect):
            if not service.alive():
                service.start(wait=False)
            service.await_answer()

    def another_prefect(self) -> str:
        """Return the address of a second Prefect server, started when it is first asked for."""
        if self._another is None:
            self._another = self.servers.another_prefect()
            self._another[0].start()
        return self._another[1]

    def forget(self, home: Path) -> None:
        """Remove a home, and put what the servers know of its stream under another name."""
        self._told += 1
        expect(in_child(lambda _: self._put_away(f"told-{self._told}"), SLOWEST))
        super().forget(home)

    def _put_away(self, name: str) -> None:
        from prefect.client.orchestration import get_client

        from bhpeft.registry import Registry
        from flows.locks import promotion_limit, round_limit

        client = Registry(self.servers.env["MLFLOW_TRACKING_URI"]).connection.client
        if client.search_registered_models(f"name = '{STREAM}'"):
            client.rename_registered_model(STREAM, name)
        for suffix in ("", "/moves"):
            if experiment := client.get_experiment_by_name(f"bhpeft/{STREAM}{suffix}"):
                client.rename_experiment(experiment.experiment_id, f"bhpeft/{name}{suffix}")
        with get_client(sync_client=True) as prefect:
            for limit in (round_limit(STREAM), promotion_limit(STREAM)):
                prefect.delete_global_concurrency_limit_by_name(limit)


def note_ending(run: Run, what: str, ended: Ended) -> None:
    """Note how a watch ended; whoever is on call must be able to read why.

    A round ends by an error of ours. What ends the watch around it may also be Prefect's, about its
    own server.
    """
    import httpx
    from prefect import exceptions

    said, places = ended.said, (errors, exceptions, httpx)
    if not isinstance(said, dict) or "error" in said:
        run.violations.append(f"the watch ended without a word for a person: {said}")
        return
    own = [said["own"]] if said["own"] else []
    unnamed = [name for name in said["rounds"] if not hasattr(errors, name)]
    unnamed += [name for name in own if not any(hasattr(place, name) for place in places)]
    if unnamed:
        run.violations.append(f"{unnamed} is no name for a person")
    run.endings += [f"{what}: {name}" for name in said["rounds"] + own or [said["state"]]]


def noting(round_flow: Callable[..., Any], failed: list[str]) -> Callable[..., Any]:
    """Return the flow `round`, which now notes the error of each round that had one."""

    def noted(**given: Any) -> Any:
        state = round_flow(**given)
        if state.is_failed() or state.is_crashed():
            failed.append(error_of(state))
        return state

    return noted


def error_of(state: Any) -> str:
    """Return the name of the error that ended a run; what else its message begins with."""
    message = str(state.message)
    return (message.partition("exception: ")[2] or message).partition(":")[0]


def unable() -> str:
    """Return what is missing, or nothing."""
    missing = services.postgres_folder() is None
    return "PostgreSQL is not installed (apt-get install postgresql)" if missing else ""
