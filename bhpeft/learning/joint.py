"""Learn several tasks at once and let them share: a variational BoRA.

    θ_d ~ N(Θ, 1/τ_g)          per block g (layer × method), for each task d

Every task takes steps on its own rows, down −ELBO_d/N_d with N(Θ, 1/τ) as its prior; Θ follows the
tasks after every step, τ is learned from them once a pass (`bhpeft.posterior.hierarchy`):

    loss_d = mean_i[ −log p(y_i | x_i, m_d + s_d·ε) ] + (λ/N_d) · KL( N(m_d, s_d²) ‖ N(Θ, 1/τ) )

    τ = 0     tasks that know nothing of each other, each under the base prior: `fit`, to the bit
    τ = ∞     one posterior for all rows together
    a number  the same τ for every block; a grid of them is how the paper chose it
    None      learned by block, held at the base prior's for the first `held` of the passes

What τ is learned from is each task's mean and curvature: s² = 1/(τ + N_d·F/λ), the optimum given τ,
iterated with the closed form of τ until both agree. The σ that Adam has at the time will not do: it
shakes, E s² of a shaking σ is too wide, and what is too wide comes back as a wider prior.

With the estimator "mean" nothing is drawn, the KL's pull on the means is ½τ‖m_d − Θ‖², and the fit
is the paper's MAP under its squared-norm prior; a learned τ is then EM's, blind to the spread.

Source: BoRA (arXiv 2407.15857), MAP there over a grid of τ; VI and a learned τ are its future work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator

from bhpeft.errors import ConfigError, StateError
from bhpeft.learning.checkpoint import Place, new_order
from bhpeft.learning.course import Course
from bhpeft.learning.descent import Descent
from bhpeft.learning.fit import Watch, check_rows, check_time, fit, mode, walked
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.sharing import at_population, check_shares, common, coordinates
from bhpeft.learning.state import AdapterState
from bhpeft.methods import block_of
from bhpeft.models.together import TablesTogether
from bhpeft.posterior import (
    Hyper,
    MeanField,
    Population,
    centred,
    check_gauges,
    population,
    updated,
)

__all__ = ["Joint", "Sharing", "fit_jointly", "over_grid"]

# Times that s² and τ are put beside each other at each update; each is a few operations on (P,).
AGREED_AFTER = 20

# A point's σ, where a posterior has to have one: of no weight beside any gap between two means.
POINT_STD = 1e-12


@dataclass(frozen=True)
class Sharing:
    """How tasks share.

    Attributes:
        tau: the precision of every weight around Θ; 0 for tasks on their own, infinity for one
            posterior of all, None to learn it by block.
        held: the share of the passes for which a learned τ stays where it starts: before tasks
            have moved they look alike, and τ would lock them there.
        hyper: the hyperprior of Θ and τ; how long τ is held is `held`'s to say.
    """

    tau: float | None = None
    held: float = 0.3
    hyper: Hyper = field(default_factory=Hyper)

    def __post_init__(self) -> None:
        if (self.tau is not None and not self.tau >= 0) or not 0 <= self.held <= 1:
            raise ConfigError(
                "Tasks cannot share so",
                found=f"τ = {self.tau}, held = {self.held}",
                expected="τ from 0 to infinity, or None; held between 0 and 1",
            )


@dataclass(frozen=True)
class Joint:
    """What a joint fit left.

    Attributes:
        states: by task, each with its population's N(Θ, 1/τ) as its base prior.
        population: Θ and τ.
        path: τ by block, after each time it was updated; empty where it is fixed.
        curves: by task, as `Fitted.curve`.
        seconds: how long it took.
    """

    states: Mapping[str, AdapterState]
    population: Population
    path: Sequence[Mapping[str, float]]
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    seconds: float

    def newcomer(self, start: AdapterState) -> AdapterState:
        """Return where a task nobody has seen starts, and what is predicted for it meanwhile.

        Args:
            start: its `first_state`, in the same gauge.

        Raises:
            StateError: it is in another gauge.
        """
        known = next(iter(self.states.values()))
        check_gauges([coordinates(one) for one in (*self.states.values(), start)])
        return at_population(self.population, start, start.spec.labels == known.spec.labels)


def fit_jointly(
    tasks: Mapping[str, Lesson],
    generator: Generator,
    sharing: Sharing = Sharing(),
    watch: Watch | None = None,
) -> Joint:
    """Learn several tasks, each from its own rows and from what it has in common with the others.

    Args:
        tasks: by name; first rounds on one model, under one variant and plan.
        generator: the source of every task's draws and order of rows.
        sharing: how tightly the tasks are held together.
        watch: called after each step of all, with how many the longest task has taken, and of how
            many.

    Raises:
        ConfigError: there is no task, or a task is none that can share.
        StateError: the tasks live in different gauges, or a point would move their coordinates.
        FitError: as for `bhpeft.learning.fit.fit`.
    """
    _check(tasks)
    if sharing.tau == math.inf:
        return _pooled(tasks, generator, watch)
    if sharing.tau == 0:
        return _apart(tasks, generator, watch)
    return _Group.begin(tasks, generator, sharing).learned(watch)


def over_grid(
    tasks: Mapping[str, Lesson], taus: Iterable[float | None], seed: int, sharing: Sharing
) -> dict[float | None, Joint]:
    """Return a joint fit for each τ, all with the same seed; None is the learned one."""
    return {
        tau: fit_jointly(tasks, Generator().manual_seed(seed), replace(sharing, tau=tau))
        for tau in taus
    }


@dataclass
class _Group:
    """Tasks on their way together.

    Attributes:
        descents, courses, walks: of each task.
        known: Θ and τ as they are.
        sharing: how they share.
        passes: steps after which every task has seen its rows once.
        held: after how many passes τ is learned.
    """

    descents: dict[str, Descent]
    courses: dict[str, Course]
    walks: dict[str, Iterator[Place]]
    known: Population
    sharing: Sharing
    passes: int
    held: int
    path: list[Mapping[str, float]] = field(default_factory=list)

    @classmethod
    def begin(cls, tasks: Mapping[str, Lesson], generator: Generator, sharing: Sharing) -> _Group:
        first = next(iter(tasks.values()))
        known = common([first.start])
        if sharing.tau is not None:
            known = replace(known, tau=dict.fromkeys(known.tau, sharing.tau))
        known = replace(known, mean=known.mean.to(first.model.device))
        descents, courses = {}, {}
        for name, lesson in tasks.items():
            own = _under(known.prior(lesson.variant.scale), lesson)
            descents[name] = Descent.begin(own, _source(generator))
            courses[name] = Course(own, own.plan.epochs)
        return cls(
            descents=descents,
            courses=courses,
            walks={name: walked(descents[name], courses[name], Place()) for name in tasks},
            known=known,
            sharing=replace(sharing, hyper=replace(sharing.hyper, held=0)),
            passes=max(lesson.steps_an_epoch for lesson in tasks.values()),
            held=round(sharing.held * first.plan.epochs),
        )

    def learned(self, watch: Watch | None) -> Joint:
        """Walk until every task is through."""
        began, step = time.monotonic(), 0
        plan = next(iter(self.descents.values())).lesson.plan
        with mode(next(iter(self.descents.values())).lesson):
            while self._step():
                step += 1
                check_time(plan, began)
                self._share(learn=self.sharing.tau is None and step % self.passes == 0)
                if watch:
                    watch(step, max(course.steps for course in self.courses.values()))
        self._share(learn=self.sharing.tau is None)
        return self._result(time.monotonic() - began)

    def _step(self) -> bool:
        """Take a step of every task that has one left; say whether there was any."""
        for name in list(self.walks):
            if next(self.walks[name], None) is None:
                del self.walks[name]
        return bool(self.walks)

    @torch.no_grad()
    def _share(self, learn: bool) -> None:
        """Move Θ, and τ where it is to be learned, and give every task its new prior."""
        descents, hyper = list(self.descents.values()), self.sharing.hyper
        self.known = centred(self.known, [descent.q for descent in descents], hyper)
        if learn:
            for _ in range(AGREED_AFTER if len(self.path) >= self.held else 0):
                seen = [_seen(descent, self.known) for descent in descents]
                self.known = updated(self.known, seen, hyper)
            self.path.append(dict(self.known.tau))
        prior = self.known.prior(descents[0].prior.scale)
        for descent in descents:
            descent.prior = prior

    def _result(self, seconds: float) -> Joint:
        known = replace(self.known, mean=self.known.mean.cpu())
        states = {
            name: replace(descent.finished(), prior=known.prior(descent.prior.scale))
            for name, descent in self.descents.items()
        }
        curves = {name: descent.curve for name, descent in self.descents.items()}
        return Joint(states, known, self.path, curves, seconds)


def _apart(tasks: Mapping[str, Lesson], generator: Generator, watch: Watch | None) -> Joint:
    fitted = {name: fit(lesson, _source(generator), watch) for name, lesson in tasks.items()}
    return Joint(
        states={name: one.state for name, one in fitted.items()},
        population=common([lesson.start for lesson in tasks.values()]),
        path=[],
        curves={name: one.curve for name, one in fitted.items()},
        seconds=sum(one.seconds for one in fitted.values()),
    )


def _pooled(tasks: Mapping[str, Lesson], generator: Generator, watch: Watch | None) -> Joint:
    """Learn all rows as one task; what all know of it is what a newcomer starts from."""
    first = next(iter(tasks.values()))
    rows = TablesTogether([lesson.rows for lesson in tasks.values()])
    fitted = fit(replace(first, rows=rows), _source(generator), watch)
    return Joint(
        states=dict.fromkeys(tasks, fitted.state),
        population=population(fitted.state.posterior, block_of),
        path=[],
        curves=dict.fromkeys(tasks, fitted.curve),
        seconds=fitted.seconds,
    )


def _under(prior: MeanField, lesson: Lesson) -> Lesson:
    """Return a task under another prior; its σ starts no wider than that is."""
    q = lesson.start.posterior
    rho = torch.minimum(q.rho, prior.rho.to(q.rho.device))
    return replace(lesson, prior=prior, start=replace(lesson.start, posterior=replace(q, rho=rho)))


def _seen(descent: Descent, known: Population) -> MeanField:
    """Return a task's posterior as τ sees it: its mean, and σ where its curvature puts it."""
    q, lesson = descent.q, descent.lesson
    std = torch.full_like(q.mean, POINT_STD)
    if lesson.variant.estimator != "mean":
        weight = len(lesson.rows) / lesson.variant.kl_weight
        curvature = weight * descent.gaussian_fisher.one_row.to(q.mean.device)
        std = (known.prior(q.scale).std.square().reciprocal() + curvature).rsqrt()
    return MeanField.from_std(q.mean, std, q.shapes, q.scale)


def _source(generator: Generator) -> Generator:
    """Return a task's own source, so that it learns alike whoever learns beside it."""
    return Generator().manual_seed(new_order(generator))


def _check(tasks: Mapping[str, Lesson]) -> None:
    if not tasks:
        raise ConfigError("A joint fit needs tasks", found="none", expected="one at least")
    first = next(iter(tasks.values()))
    for name, lesson in tasks.items():
        check_rows(lesson)
        same = lesson.model is first.model and lesson.variant == first.variant
        if not (same and lesson.plan == first.plan and lesson.first):
            raise ConfigError(
                f"The task {name!r} cannot be learned beside the others",
                found="another model, variant or plan" if lesson.first else "a later round",
                expected="first rounds of one model, variant and plan",
            )
        if lesson.variant.finish or lesson.start.spec.members > 1:
            raise ConfigError(
                f"The variant {lesson.variant.name!r} cannot be learned jointly",
                found="an ensemble, or a step after the descent",
                expected="one posterior a task, and nothing after it",
            )
        if list(lesson.start.posterior.shapes) != list(first.start.posterior.shapes):
            raise StateError(
                f"The task {name!r} has other Gaussian weights than the first",
                expected="the same methods, and heads of the same labels where they are Gaussian",
            )
    check_shares(first.model, first.variant)
    check_gauges([coordinates(lesson.start) for lesson in tasks.values()])
