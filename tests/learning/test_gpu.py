"""On a CUDA device a round learns what it learns on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from bhpeft.learning.fit import fit
from bhpeft.learning.predict import Predictor
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
