"""What frozen layers make of a row is made once, kept, and as good as made again."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bhpeft.learning.fit import fit
from bhpeft.methods import LoRA, ParallelAdapter, Prefix, Prompt
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.feature_table import FeatureTable, with_features
from tests import tiny
from tests.learning import problems
from tests.learning.test_state import tensors_of

LIMIT = 2**20


def adapted(family: str = "bert", layers: int = 1, pooling: str | None = None) -> AdaptedModel:
    """A model of three layers, the top ones adapted by everything at once."""
    methods = [kind(layers=layers) for kind in (LoRA, ParallelAdapter, Prefix)]
    base = tiny.base(family, 3)
    return AdaptedModel(base, methods, 2, pooling, generator=tiny.generator())


class Work:
    """Counts how often a layer really computes."""

    def __init__(self, layer: nn.Module):
        self.times = 0
        inner = next(module for module in layer.modules() if isinstance(module, nn.Linear))
        inner.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.times += 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("draws", [None, 3])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_model_gives_the_same_from_its_features(
    family: str, draws: int | None, pooling: str
) -> None:
    """In every family, with padding, with one weight or several draws, and its gradients too."""
    model, minibatch = adapted(family, 2, pooling), tiny.minibatch()
    features = model.features(minibatch)
    assert features.shape == (3, 9, 32)
    weights = tiny.draw(model.shapes, draws)
    found = []
    for given in (minibatch, minibatch | {"features": features}):
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        with model.swapped(leaves):
            logits = model.logits(given)
            logits.square().sum().backward()
        found.append((logits, {name: leaf.grad for name, leaf in leaves.items()}))
    (plain, gradients), (again, others) = found
    torch.testing.assert_close(again, plain)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, msg=name)


def test_each_part_leaves_the_other_out_and_puts_it_back() -> None:
    model, minibatch = adapted(), tiny.minibatch()
    below, above = (Work(layer) for layer in (model._layers[0], model._layers[2]))
    features = model.features(minibatch)
    assert (below.times, above.times) == (1, 0)
    model.logits(minibatch | {"features": features})
    assert (below.times, above.times) == (1, 1)
    model.logits(minibatch)
    assert (below.times, above.times) == (2, 2)


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ([LoRA(layers=1)], 2),
        ([LoRA(layers=2)], 1),
        ([LoRA(layers=1), ParallelAdapter(layers=2)], 1),
        ([LoRA()], 0),
        ([LoRA(layers=1), Prompt(length=2)], 0),
    ],
)
def test_frozen_is_what_lies_below_the_lowest_method(methods: list[Any], expected: int) -> None:
    """A prompt enters before the first layer, so that everything above it changes."""
    model = AdaptedModel(tiny.base("bert", 3), methods, 2, generator=tiny.generator())
    assert model.frozen_layers == expected


def test_a_model_whose_layers_cannot_run_apart_has_none_frozen() -> None:
    model = AdaptedModel(tiny.base("deberta", 3), [LoRA(layers=1)], 2, generator=tiny.generator())
    assert model.frozen_layers == 0


def epoch(rows: Any, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    return list(rows.minibatches(8, tiny.generator(seed)))


def test_the_layers_below_run_once_a_row_and_never_again(tmp_path: Path) -> None:
    """In the second epoch rows come in other company, and from the file."""
    model, table = adapted(), problems.table(tmp_path)
    work = Work(model._layers[0])
    with with_features(table, model, tmp_path / "kept", LIMIT) as rows:
        first = epoch(rows)
        assert work.times == len(first) == 3
        for minibatch in epoch(rows, 1) + epoch(rows, 2):
            mask = minibatch["attention_mask"].bool()
            expected = model._frozen.hidden(minibatch["input_ids"], minibatch["attention_mask"])
            work.times -= 1
            torch.testing.assert_close(minibatch["features"][mask], expected[mask])
        assert work.times == 3
    with with_features(table, model, tmp_path / "kept", LIMIT) as rows:
        epoch(rows)
    assert work.times == 3


def test_the_order_of_rows_is_the_tables_own(tmp_path: Path) -> None:
    model, table = adapted(), problems.table(tmp_path)
    with with_features(table, model, tmp_path / "kept", LIMIT) as rows:
        assert (len(rows), rows.steps(8)) == (24, 3)
        for mine, theirs in zip(epoch(rows), epoch(table), strict=True):
            assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_round_learns_the_same_from_features(tmp_path: Path, checkpointing: bool) -> None:
    found = []
    for limit in (0, LIMIT):
        model = adapted()
        lesson = problems.lesson(tmp_path, epochs=3, checkpointing=checkpointing)
        state = problems.start(model, ["lora", "adapter", "prefix"])
        with with_features(lesson.rows, model, tmp_path / "kept", limit) as rows:
            assert isinstance(rows, FeatureTable) == bool(limit)
            lesson = replace(lesson, model=model, rows=rows, start=state, prior=state.prior)
            found.append(tensors_of(fit(lesson, tiny.generator(7)).state))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_kept_to_the_bit(tmp_path: Path) -> None:
    """The same minibatches twice, so that no other rounding comes in."""
    model, table = adapted(), problems.table(tmp_path)
    model.model.to(torch.bfloat16)
    with with_features(table, model, tmp_path / "kept", LIMIT) as rows:
        first, second = epoch(rows), epoch(rows)
    for made, read in zip(first, second, strict=True):
        mask = made["attention_mask"].bool()
        assert made["features"].dtype == read["features"].dtype == torch.bfloat16
        assert torch.equal(made["features"][mask], read["features"][mask])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_another_base_dtype_table_or_number_of_layers_is_another_file(tmp_path: Path) -> None:
    """Nothing that decides what is in it can change unnoticed."""
    folder, table = tmp_path / "kept", problems.table(tmp_path)

    def keep(model: AdaptedModel, rows: Any = table) -> int:
        with with_features(rows, model, folder, LIMIT) as given:
            epoch(given)
        return len(files(folder))

    other = adapted()
    other.base = replace(other.base, fingerprint="another")
    halved = adapted()
    halved.model.to(torch.bfloat16)
    assert keep(adapted()) == 1
    assert keep(adapted()) == 1
    assert keep(other) == 2
    assert keep(halved) == 3
    assert keep(adapted(layers=2)) == 4
    assert keep(adapted(), problems.table(tmp_path, seed=1)) == 5


def test_what_an_interrupted_epoch_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "kept"

    def interrupted() -> None:
        with with_features(problems.table(tmp_path), adapted(), folder, LIMIT) as rows:
            next(iter(rows.minibatches(8, tiny.generator())))
            assert len(files(folder)) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files(folder) == set()


def test_what_does_not_fit_is_not_kept_and_the_oldest_makes_room(tmp_path: Path) -> None:
    model, folder = adapted(), tmp_path / "kept"
    tables = [problems.table(tmp_path, seed=seed) for seed in range(3)]
    sizes = [int(table.lengths().sum()) * 32 * 4 for table in tables]
    with with_features(tables[0], model, folder, sizes[0] - 1) as rows:
        assert rows is tables[0]
    made = []
    for number, table in enumerate(tables):
        with with_features(table, model, folder, sum(sizes) - 1) as rows:
            epoch(rows)
        made += sorted(files(folder) - set(made))
        os.utime(folder / made[-1], (number, number))
    assert files(folder) == set(made[1:])


def test_a_full_disk_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Space is reserved before it is written to: a mapped file without any ends the process."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    table = problems.table(tmp_path)
    with with_features(table, adapted(), tmp_path / "kept", LIMIT) as rows:
        assert rows is table
    assert files(tmp_path / "kept") == set()
