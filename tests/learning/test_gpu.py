"""On a CUDA device a round learns what it learns on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from bhpeft.learning.fit import fit
from bhpeft.learning.predict import Predictor
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.devices import devices_here
from tests import tiny
from tests.learning import problems

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_round_on_cuda_gives_the_posterior_of_the_cpu(tmp_path: Path) -> None:
    """Draws come from a CPU generator, so that a seed means the same on every device."""
    fitted = {}
    for device in ("cpu", "cuda"):
        lesson = problems.lesson(tmp_path)
        lesson.model.to(device)
        fitted[device] = fit(lesson, tiny.generator(0)).state
    assert_close(fitted["cuda"].posterior.mean, fitted["cpu"].posterior.mean, atol=1e-3, rtol=1e-2)
    assert_close(fitted["cuda"].posterior.rho, fitted["cpu"].posterior.rho, atol=1e-2, rtol=1e-2)


def test_a_round_in_bfloat16_on_cuda_predicts_what_float32_does(tmp_path: Path) -> None:
    """The base is rounded and the posterior is not; `spread` puts both where they belong."""
    said = {}
    for dtype, device in ((torch.float32, "cpu"), (torch.bfloat16, "cuda")):
        base = tiny.base("bert")
        base.model.to(dtype)
        methods = [method("lora", problems.SETTINGS["lora"])]
        model = AdaptedModel(base, methods, 2, generator=tiny.generator(3))
        start = problems.start(model)
        lesson = replace(problems.lesson(tmp_path), model=model, start=start, prior=start.prior)
        model.spread(devices_here(device))
        state = fit(lesson, tiny.generator(0)).state
        assert state.posterior.mean.dtype == torch.float32
        said[device] = Predictor(model, state).probabilities(problems.texts(6))
    assert_close(torch.from_numpy(said["cuda"]), torch.from_numpy(said["cpu"]), atol=0.03, rtol=0)


def test_predictions_on_cuda_equal_those_on_the_cpu(tmp_path: Path) -> None:
    lesson = problems.lesson(tmp_path)
    texts = problems.texts(6)
    on_cpu = Predictor(lesson.model, lesson.start).probabilities(texts)
    on_cuda = Predictor(lesson.model.to("cuda"), lesson.start).probabilities(texts)
    assert_close(torch.from_numpy(on_cuda), torch.from_numpy(on_cpu), atol=1e-4, rtol=1e-3)


def test_recorded_passes_say_what_the_passes_say(tmp_path: Path) -> None:
    """A shape is recorded when it comes again; the third time it is only played."""
    lesson = problems.lesson(tmp_path)
    on_cpu = Predictor(lesson.model, lesson.start)
    expected = [on_cpu.probabilities(problems.texts(6, seed=seed)) for seed in range(4)]
    predictor = Predictor(lesson.model.to("cuda"), lesson.start)
    for seed, said in enumerate(expected):
        found = predictor.probabilities(problems.texts(6, seed=seed))
        assert_close(torch.from_numpy(found), torch.from_numpy(said), atol=1e-4, rtol=1e-3)
    recorded = predictor._run(predictor.recipe())
    assert recorded.able
    assert recorded.recorded
