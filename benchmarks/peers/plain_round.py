"""A round as people script it today: continue a peft adapter on a batch, evaluate, log, register.

    peft LoRA in float32, random minibatches padded to their longest row, AdamW, linear decay
    the old and the new adapter scored on every hold-out row, scikit-learn's figures of both
    Evidently's drift preset, its page as an artefact
    MLflow: parameters, loss and rate at each step, figures, the adapter by `save_pretrained`
    registered, and the alias moved if the new NLL is no worse

It follows the text classification guides of peft and transformers, and MLflow's for its registry.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from benchmarks.peers.loop import SIZE, Loop
from benchmarks.peers.problem import Problem
from benchmarks.peers.stock import LEARNING_RATE

NAME = "plain"
MARGIN = 0.01
# As a stream keeps them by default: rows of a batch's hold-out, and batches.
KEPT_ROWS, KEPT_BATCHES = 500, 5

Figures = dict[str, float]


@dataclass
class PlainRound:
    """A script that is run once a batch, on its own MLflow database in `home`.

    Attributes:
        home: where MLflow's database and artefacts are.
        problem: the base, LoRA's settings, and how long texts may be.
        labels: the classes in the head's order.
        epochs: passes over a batch's training rows.
        earlier: hold-out rows of earlier batches, oldest first.
    """

    home: Path
    problem: Problem
    labels: tuple[str, ...]
    epochs: int
    earlier: list[pd.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open MLflow, and its experiment and registered model."""
        from mlflow import MlflowClient

        uri = f"sqlite:///{(self.home / 'plain.db').resolve()}"
        self._client = MlflowClient(uri, registry_uri=uri)
        files = (self.home / "plain").resolve().as_uri()
        self._experiment = self._client.create_experiment(NAME, artifact_location=files)
        self._client.create_registered_model(NAME)

    def run(self, train: pd.DataFrame, held: pd.DataFrame) -> dict[str, Figures]:
        """Continue the champion on a batch's rows of text and label; return the figures by set."""
        run = self._client.create_run(self._experiment).info
        with tempfile.TemporaryDirectory() as folder:
            desk = Path(folder)
            old, new = self._champion(desk / "champion"), self._loop()
            if old is not None:
                new.model.load_state_dict(old.model.state_dict())
            losses = self._train(new, train, run.run_id, len(held))
            figures, said = self._evaluate(old, new, held)
            for name, values in figures.items():
                for figure, value in values.items():
                    self._client.log_metric(run.run_id, f"{name}/{figure}", value)
            if said is not None:
                self._drift(held, said, desk / "drift.html")
                self._client.log_artifact(run.run_id, str(desk / "drift.html"))
            self._plots(run.run_id, losses, figures)
            self._register(run, new, desk / "adapter", figures)
        self._client.set_terminated(run.run_id)
        self.earlier = [*self.earlier, held.head(KEPT_ROWS)][-KEPT_BATCHES:]
        return figures

    def _loop(self) -> Loop:
        return Loop(self.problem, "do_not_pad", self.epochs)

    def _champion(self, folder: Path) -> Loop | None:
        """Return the model behind the alias, or None before there is one."""
        from peft import load_peft_weights, set_peft_model_state_dict

        if "champion" not in self._client.get_registered_model(NAME).aliases:
            return None
        folder.mkdir()
        version = self._client.get_model_version_by_alias(NAME, "champion")
        self._client.download_artifacts(version.run_id, "adapter", str(folder))
        loop = self._loop()
        weights = load_peft_weights(str(folder / "adapter"), device="cpu")
        set_peft_model_state_dict(loop.model.base, weights)
        loop.model.head.load_state_dict(load_file(folder / "adapter" / "head.safetensors"))
        return loop

    def _train(self, new: Loop, train: pd.DataFrame, run_id: str, held: int) -> list[float]:
        settings = {
            "learning_rate": LEARNING_RATE, "batch_size": SIZE, "epochs": self.epochs,
            "rank": self.problem.rank, "alpha": self.problem.alpha, "base": self.problem.base,
            "training_rows": len(train), "holdout_rows": held,
        }  # fmt: skip
        for name, value in settings.items():
            self._client.log_param(run_id, name, value)
        losses: list[float] = []

        def told(step: int, loss: Any, rate: float) -> None:
            losses.append(float(loss))
            self._client.log_metric(run_id, "loss", losses[-1], step=step)
            self._client.log_metric(run_id, "learning_rate", rate, step=step)

        for _ in range(self.epochs):
            new.epoch(train["text"].tolist(), self._index(train).tolist(), told)
        return losses

    def _evaluate(
        self, old: Loop | None, new: Loop, held: pd.DataFrame
    ) -> tuple[dict[str, Figures], list[np.ndarray] | None]:
        """Return both models' figures on each set, and what the old one says of each set."""
        sets = [held, *self.earlier]
        figures, said = {}, None
        for name, loop in {"candidate": new, "champion": old}.items():
            if loop is None:
                continue
            probs = [_said(loop, rows) for rows in sets]
            said = probs if loop is old else said
            for at, (rows, mine) in enumerate(zip(sets, probs, strict=True)):
                where = f"earlier_{at}" if at else "holdout"
                figures[f"{name}/{where}"] = _figures(mine, self._index(rows))
        return figures, said

    def _drift(self, held: pd.DataFrame, said: list[np.ndarray], page: Path) -> None:
        """Write Evidently's page: the new hold-out beside the earlier ones."""
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(
            numerical_columns=["text_length", "word_count", "confidence"],
            categorical_columns=["label", "prediction"],
        )
        current, reference = (
            Dataset.from_pandas(self._columns(rows, probs), data_definition=definition)
            for rows, probs in (
                (held, said[0]),
                (pd.concat(self.earlier), np.concatenate(said[1:])),
            )
        )
        Report([DataDriftPreset()], include_tests=True).run(current, reference).save_html(str(page))

    def _columns(self, rows: pd.DataFrame, probs: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "text_length": rows["text"].str.len().to_numpy(),
                "word_count": rows["text"].str.split().str.len().to_numpy(),
                "label": rows["label"].to_numpy(),
                "prediction": np.array(self.labels)[probs.argmax(1)],
                "confidence": probs.max(1),
            }
        )

    def _plots(self, run_id: str, losses: list[float], figures: Mapping[str, Figures]) -> None:
        from matplotlib.figure import Figure

        curve = Figure()
        curve.subplots().plot(losses)
        self._client.log_figure(run_id, curve, "loss.png")
        bars = Figure()
        bars.subplots().barh(list(figures), [values["nll"] for values in figures.values()])
        self._client.log_figure(run_id, bars, "nll.png")
        self._client.log_dict(run_id, dict(figures), "figures.json")

    def _register(self, run: Any, new: Loop, folder: Path, figures: Mapping[str, Figures]) -> None:
        new.model.base.save_pretrained(folder)
        save_file(new.model.head.state_dict(), folder / "head.safetensors")
        self._client.log_artifacts(run.run_id, str(folder), "adapter")
        version = self._client.create_model_version(NAME, f"{run.artifact_uri}/adapter", run.run_id)
        old = figures.get("champion/holdout")
        if old is None or figures["candidate/holdout"]["nll"] <= old["nll"] + MARGIN:
            self._client.set_registered_model_alias(NAME, "champion", version.version)

    def _index(self, rows: pd.DataFrame) -> np.ndarray:
        return rows["label"].map({name: k for k, name in enumerate(self.labels)}).to_numpy()


def _said(loop: Loop, rows: pd.DataFrame) -> np.ndarray:
    """Return the probabilities of rows, (N, C)."""
    probs: np.ndarray = loop.logits(rows["text"].tolist()).double().softmax(-1).numpy()
    return probs


def _figures(probs: np.ndarray, truth: np.ndarray) -> Figures:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    said, classes = probs.argmax(1), np.arange(probs.shape[1])
    return {
        "accuracy": float(accuracy_score(truth, said)),
        "f1_macro": float(f1_score(truth, said, average="macro")),
        "nll": float(log_loss(truth, probs, labels=classes)),
    }
