"""What `models:/<stream>@champion` runs: a stored posterior as an MLflow model, from code.

MLflow copies this file into every version and executes it when the version is loaded, so it says
as little as possible: the posterior predictive is `bhpeft.learning.predict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class PosteriorModel(PythonModel):
    """The task's answer to each text, how sure it is, and whether it abstains."""

    def load_context(self, context: Any) -> None:
        """Load the posterior and its base model, after every file is what was stored.

        Raises:
            StateError: a file is missing, altered or was not there.
        """
        from bhpeft.learning.predict import Predictor
        from bhpeft.registry.package import verify_folder

        folder = Path(context.artifacts["adapter"])
        # Versions stored before this was written have no checksums of their own beside them.
        if expected := (context.model_config or {}).get("sha256"):
            verify_folder(folder, expected, "this version")
        self._predictor = Predictor.load(folder)

    # A hint of list[str] would make MLflow replace the signature and drop its parameters; this one
    # it leaves alone, and without any it warns each user who loads the model.
    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predict from a frame with a column `text`, a series or a list of texts.

        Args:
            context: MLflow's; not used.
            model_input: the texts; or a frame with columns `question` and `options`, a list each.
            params: `draws`, how many draws of the posterior to average; 0 for its mean, a negative
                number for the version's own.
        """
        draws = int((params or {}).get("draws", -1))
        count = None if draws < 0 else draws
        if isinstance(model_input, pd.DataFrame) and "options" in model_input.columns:
            questions, options = model_input["question"], model_input["options"]
            return self._predictor.choose(list(questions), [list(row) for row in options], count)
        return self._predictor.predict(texts_of(model_input), draws=count)


def texts_of(model_input: pd.DataFrame | pd.Series | Sequence[str]) -> list[str]:
    """Return the texts, whatever they came in."""
    if isinstance(model_input, pd.DataFrame):
        column = "text" if "text" in model_input.columns else model_input.columns[0]
        return [str(text) for text in model_input[column]]
    return [str(text) for text in model_input]


set_model(PosteriorModel())
