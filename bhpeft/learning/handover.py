"""Hand a learning problem to other processes as files, and what they learned back.

safetensors and JSON, as everything that is kept: `problem.json` says what the tensors beside it do
not, `start` is a state like any version's, and the rows are the token table on this machine's disk.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter
from safetensors.torch import load_file, save_file
from torch import Generator

from bhpeft.errors import FitError
from bhpeft.learning.build import build_model
from bhpeft.learning.fit import Fitted
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.plan import Plan
from bhpeft.learning.projection import TABLE, projection_of
from bhpeft.learning.ranks import Ranks
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import Variant
from bhpeft.models.arithmetic import Arithmetic, in_words
from bhpeft.models.devices import AUTO
from bhpeft.models.sharding import shard
from bhpeft.models.tokens import TokenTable
from bhpeft.posterior import MeanField

PROBLEM, TENSORS, START = "problem.json", "problem.safetensors", "start"
# Where another machine has what lies elsewhere on the first one.
ROWS, KEPT = "rows", "kept"
LEARNED, GENERATOR, FACTS = "learned", "generator.safetensors", "fitted.json"


@dataclass(frozen=True)
class Problem:
    """What a learning problem's tensors do not say.

    Attributes:
        plan, variant, first, forgetting: the lesson's.
        rows: the token table's path.
        arithmetic: what the base computes in.
        shard: whether the ranks share the frozen base's weights too.
        kept: the folder where a long training is saved, if it is.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    plan: Plan
    variant: Variant
    first: bool
    forgetting: float
    rows: Path
    arithmetic: Arithmetic
    shard: bool
    kept: Path | None


_PROBLEM = TypeAdapter(Problem)


def hand_over(
    lesson: Lesson, generator: Generator, folder: Path, *, shard: bool, kept: Path | None
) -> None:
    """Write a problem into `folder`.

    Raises:
        FitError: its rows are no token table on disk.
    """
    if not isinstance(lesson.rows, TokenTable):
        raise FitError(
            "Several processes cannot share these rows",
            found=type(lesson.rows).__name__,
            expected="a TokenTable, which each of them opens",
            remedy="Set compute.processes to 1.",
        )
    lesson.start.save(folder / START)
    tensors = {
        "mean": lesson.prior.mean,
        "rho": lesson.prior.rho,
        "generator": generator.get_state(),
    }
    save_file({name: value.detach().cpu() for name, value in tensors.items()}, folder / TENSORS)
    problem = Problem(
        plan=lesson.plan,
        variant=lesson.variant,
        first=lesson.first,
        forgetting=lesson.forgetting,
        rows=lesson.rows.path.resolve(),
        arithmetic=Arithmetic(**in_words(lesson.model.model)),
        shard=shard,
        kept=kept.resolve() if kept else None,
    )
    (folder / PROBLEM).write_bytes(_PROBLEM.dump_json(problem))


def taken_over(folder: Path, ranks: Ranks) -> tuple[Lesson, Generator, Path | None]:
    """Return the problem in `folder` for one rank, its generator, and where it is saved."""
    problem = _PROBLEM.validate_json((folder / PROBLEM).read_bytes())
    start, tensors = AdapterState.load(folder / START), load_file(folder / TENSORS)
    # A base that is shared need never be whole on a device.
    model = build_model(start.spec, problem.arithmetic, device="cpu" if problem.shard else AUTO)
    start.check_base(model.base.fingerprint)
    if problem.shard:
        shard(model)
    generator = Generator()
    generator.set_state(tensors["generator"])
    q = start.posterior
    lesson = Lesson(
        model=model,
        start=start,
        prior=MeanField(tensors["mean"], tensors["rho"], q.shapes, q.scale),
        rows=TokenTable(problem.rows),
        plan=problem.plan,
        variant=problem.variant,
        first=problem.first,
        forgetting=problem.forgetting,
        predicted=start.spec.predicted,
        ranks=ranks,
    )
    if TABLE in start.point:
        lesson = replace(lesson, projection=projection_of(lesson))
    return lesson, generator, problem.kept


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of the problem in `folder`, by the names they have on another machine."""
    problem = _PROBLEM.validate_json((folder / PROBLEM).read_bytes())
    own = [folder / PROBLEM, folder / TENSORS, *(folder / START).iterdir()]
    kept = sorted(problem.kept.glob("*.safetensors")) if problem.kept else []
    return {
        **{path.relative_to(folder).as_posix(): path for path in own},
        f"{ROWS}/{problem.rows.name}": problem.rows,
        **{f"{KEPT}/{path.name}": path for path in kept},
    }


def settle_in(folder: Path) -> None:
    """Let a problem that was sent here look for its rows, and for what was saved of it, here."""
    problem = _PROBLEM.validate_json((folder / PROBLEM).read_bytes())
    kept = folder / KEPT if problem.kept else None
    here = replace(problem, rows=folder / ROWS / problem.rows.name, kept=kept)
    (folder / PROBLEM).write_bytes(_PROBLEM.dump_json(here))


def hand_back(fitted: Fitted, generator: Generator, folder: Path) -> None:
    """Write what was learned into `folder`."""
    fitted.state.save(folder / LEARNED)
    save_file({"state": generator.get_state()}, folder / GENERATOR)
    facts = {name: value for name, value in vars(fitted).items() if name != "state"}
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def taken_back(folder: Path, generator: Generator) -> Fitted:
    """Return what was learned; `generator` goes on where the ranks' left off."""
    generator.set_state(load_file(folder / GENERATOR)["state"])
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return Fitted(state=AdapterState.load(folder / LEARNED), **facts)
