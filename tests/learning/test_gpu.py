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
        task = problems.task(tmp_path)
        task.model.to(device)
        fitted[device] = fit(task, tiny.generator(0)).state
    assert_close(fitted["cuda"].posterior.mean, fitted["cpu"].posterior.mean, atol=1e-3, rtol=1e-2)
    assert_close(fitted["cuda"].posterior.rho, fitted["cpu"].posterior.rho, atol=1e-2, rtol=1e-2)


def test_predictions_on_cuda_equal_those_on_the_cpu(tmp_path: Path) -> None:
    task = problems.task(tmp_path)
    texts = problems.texts(6)
    on_cpu = Predictor(task.model, task.start).probabilities(texts)
    on_cuda = Predictor(task.model.to("cuda"), task.start).probabilities(texts)
    assert_close(torch.from_numpy(on_cuda), torch.from_numpy(on_cpu), atol=1e-4, rtol=1e-3)


def test_recorded_passes_say_what_the_passes_say(tmp_path: Path) -> None:
    """A shape is recorded when it comes again; the third time it is only played."""
    task = problems.task(tmp_path)
    on_cpu = Predictor(task.model, task.start)
    expected = [on_cpu.probabilities(problems.texts(6, seed=seed)) for seed in range(4)]
    predictor = Predictor(task.model.to("cuda"), task.start)
    for seed, said in enumerate(expected):
        found = predictor.probabilities(problems.texts(6, seed=seed))
        assert_close(torch.from_numpy(found), torch.from_numpy(said), atol=1e-4, rtol=1e-3)
    recorded = predictor._run(predictor.recipe())
    assert recorded.able
    assert recorded.recorded
