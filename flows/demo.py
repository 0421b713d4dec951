"""Tell the whole story on real text and real weights, as real flow runs on real servers.

The script lands batches and calls flows; what becomes of each batch is decided by the gates. A
batch is poisoned or malformed here, but nobody is told which.
"""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhpeft.errors import ConfigError
from flows import demo_page as page
from flows.environment import state_folder
from flows.servers import serving, stop_leftovers

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


STREAM = "reviews"
ROWS = 1200
# More than half, so that the batch teaches the opposite of what is known.
POISONED_SHARE = 0.6
WHO = "demo"
# Only a folder that holds this file is ever emptied.
MARKER = "made-by-bhpeft-demo"
CORPUS = Path(".cache/vader")
SENTENCES = [
    "An absolute delight from the first minute to the last.",
    "The battery died after two days and nobody answers my mails.",
    "The committee will meet again on Thursday to discuss the schedule.",
    "not bad at all, tho i expected way more lol",
]


def run_demo(home: Path, seed: int, json_file: Path | None, console: Console) -> None:
    """Run the story in `home`, print it, and write it as JSON if asked to.

    Args:
        home: emptied first if an earlier demo made it.
        seed: of the samples and of the learning; another one tells the same story.
        json_file: where to write the story.
        console: where to print it.

    Raises:
        ConfigError: `home` holds something else, or the corpus is not there.
        ServerError: a server does not start.
    """
    stop_leftovers(home)
    _fresh(home, seed)
    with page.stages(console) as stages:
        stages.say("Starting the Prefect and MLflow servers, and unpacking the corpus")
        with serving(home) as servers:
            batches = dict(_batches(home, seed))
            story = _tell(home, batches, stages, console)
            page.show(story, console, str(home), [server.url for server in servers.all])
    if json_file is not None:
        json_file.write_text(json.dumps(page.as_json(story), indent=2), encoding="utf-8")


def _tell(
    home: Path, batches: dict[str, pd.DataFrame], stages: page.Stages, console: Console
) -> page.Story:
    story = page.Story()
    for batch_id in ("1-movie", "2-movie", "3-tweets", "4-poisoned", "5-malformed"):
        _round(home, batch_id, batches[batch_id], story, stages)
    story.rollbacks.append(_roll_back(home, stages))
    _round(home, "6-amazon", batches["6-amazon"], story, stages)
    stages.say("Predicting with models:/reviews@champion")
    story.predictions = _predictions(home)
    return story


def _round(
    home: Path, batch_id: str, rows: pd.DataFrame, story: page.Story, stages: page.Stages
) -> None:
    """Land a batch, and run the flow on the oldest that is pending."""
    from flows.round import round_flow, showing

    _land(home, batch_id, rows)
    with stages.round(batch_id) as progress, showing(progress):
        state = round_flow(
            stream=STREAM, batch=_oldest(home), home=str(home), by=WHO, return_state=True
        )
    outcome: Any = getattr(state.data, "result", state.data)
    if isinstance(outcome, Exception):
        raise outcome
    story.rounds.append(outcome)
    stages.say(page.in_one_line(outcome))


def _oldest(home: Path) -> str:
    """Return the batch whose turn it is, found as a watch finds it."""
    from bhpeft.registry import Registry
    from bhpeft.rounds import pending
    from bhpeft.stream import find_stream

    stream = find_stream(STREAM, home)
    return pending(stream, Registry(stream.tracking_uri))[0].batch_id


def _roll_back(home: Path, stages: page.Stages) -> dict[str, Any]:
    """Go back to the version before the champion, as a person on call would."""
    from bhpeft.registry import Registry
    from bhpeft.stream import find_stream
    from flows.rollback import rollback

    champion = Registry(find_stream(STREAM, home).tracking_uri).champion(STREAM)
    if champion is None or champion.parent is None:
        raise ConfigError(
            "The demo has no earlier version to roll back to",
            found=f"champion {champion}",
            expected="two promoted rounds",
            remedy="Look at the refused rounds above; the gates tell why.",
        )
    reason = f"complaints since v{champion.number}"
    rollback(stream=STREAM, to=champion.parent, reason=reason, by=WHO, home=str(home))
    stages.say(f"Rolled back v{champion.number} → v{champion.parent}: {reason}")
    return {"from": champion.number, "to": champion.parent, "reason": reason}


def _predictions(home: Path) -> list[dict[str, Any]]:
    """Predict through the registry, as any service would: models:/reviews@champion."""
    import pandas as pd

    from bhpeft.registry import Registry
    from bhpeft.stream import find_stream

    model = Registry(find_stream(STREAM, home).tracking_uri).load(STREAM)
    predicted = model.predict(pd.DataFrame({"text": SENTENCES}))
    return [
        {"text": text, **row}
        for text, row in zip(SENTENCES, predicted.to_dict("records"), strict=True)
    ]


def _land(home: Path, batch_id: str, rows: pd.DataFrame) -> None:
    from bhpeft.data.contract import load_contract
    from bhpeft.data.land import land
    from bhpeft.stream import find_stream

    stream = find_stream(STREAM, home)
    source = state_folder(home) / f"{batch_id}.parquet"
    rows.to_parquet(source, index=False)
    # A producer that does not check, so that the round has to.
    land(
        source,
        stream.landing,
        load_contract(stream.contract, stream.task.value.needs),
        STREAM,
        batch_id=batch_id,
        validate=False,
    )


def _batches(home: Path, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the batches: no text is in two of them."""
    from bhpeft.demo_data import flip_labels, malform, prepare, sample

    domains = prepare(_corpus(), home / "corpus")
    movie = sample(domains["movie"], 3 * ROWS, seed)
    amazon = sample(domains["amazon"], ROWS + 200, seed)
    yield "1-movie", movie[:ROWS]
    yield "2-movie", movie[ROWS : 2 * ROWS]
    yield "3-tweets", sample(domains["tweets"], ROWS, seed)
    yield "4-poisoned", flip_labels(movie[2 * ROWS :], POISONED_SHARE, seed)
    yield "5-malformed", malform(amazon[ROWS:], seed)
    yield "6-amazon", amazon[:ROWS]


def _corpus() -> Path:
    if not any(CORPUS.glob("*.tar.gz")):
        raise ConfigError(
            "The demo's corpus is not here",
            found=f"no archive in {CORPUS}",
            expected="the source distribution of vaderSentiment 3.3.2",
            remedy=f"make setup, or: pip download --no-deps --no-binary=:all: -d {CORPUS} "
            "vaderSentiment==3.3.2",
        )
    return CORPUS


def _fresh(home: Path, seed: int) -> None:
    """Empty the demo's folder and put the stream's two files there."""
    if home.exists() and any(home.iterdir()):
        if not (home / MARKER).exists():
            raise ConfigError(
                f"{home} holds something that no demo made",
                expected="an empty folder, or one of an earlier demo",
                remedy="Name another one with --home.",
            )
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARKER).touch()
    state_folder(home).mkdir(exist_ok=True)
    for source, target in (
        ("deploy/streams/reviews.toml", "streams/reviews.toml"),
        ("data_contracts/reviews.odcs.yaml", "data_contracts/reviews.odcs.yaml"),
    ):
        (home / target).parent.mkdir(exist_ok=True)
        shutil.copyfile(_shipped(source), home / target)
    stream = home / "streams/reviews.toml"
    text = stream.read_text(encoding="utf-8")
    stream.write_text(text.replace("[learning]\n", f"[learning]\nseed = {seed}\n", 1))


def _shipped(name: str) -> Path:
    """Return a file of the checkout, or where the wheel puts it."""
    checkout = Path(__file__).parents[1] / name
    return checkout if checkout.exists() else Path(sysconfig.get_path("data"), "share/bhpeft", name)
