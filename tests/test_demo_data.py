from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bhpeft import demo_data
from bhpeft.data.check import check
from bhpeft.data.contract import load_contract
from bhpeft.data.land import land
from bhpeft.errors import ConfigError, ContractViolation

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "vader"

needs_corpus = pytest.mark.skipif(
    not (CACHE / demo_data.SDIST).exists(),
    reason=f"the demo's corpus is not in .cache/vader/{demo_data.SDIST}; `make setup` fetches it",
)


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return demo_data.prepare(CACHE, tmp_path_factory.mktemp("domains"))


@needs_corpus
def test_the_corpus_has_the_counts_of_its_description(domains: dict[str, Path]) -> None:
    """Clear texts by domain and label, repeated texts left out."""
    counts = {
        domain: tuple(pd.read_parquet(path)["label"].value_counts().sort_index())
        for domain, path in domains.items()
    }
    assert counts == {
        "movie": (5075, 4995),
        "amazon": (1233, 1744),
        "nyt": (1756, 1175),
        "tweets": (1087, 2345),
    }


@needs_corpus
def test_every_domain_keeps_the_demo_s_contract(domains: dict[str, Path], tmp_path: Path) -> None:
    """A demo whose own data were quarantined would not be one."""
    contract = load_contract(ROOT / "data_contracts" / "reviews.odcs.yaml")
    for path in domains.values():
        check(land(path, tmp_path, contract, "reviews"), contract)


@needs_corpus
def test_preparing_it_again_gives_the_same_bytes(domains: dict[str, Path], tmp_path: Path) -> None:
    """The demo's batches have the same digests every time."""
    again = demo_data.prepare(CACHE / demo_data.SDIST, tmp_path)
    assert {d: p.read_bytes() for d, p in again.items()} == {
        d: p.read_bytes() for d, p in domains.items()
    }


@needs_corpus
def test_a_malformed_sample_breaks_the_contract_in_three_ways(
    domains: dict[str, Path], tmp_path: Path
) -> None:
    """Unknown labels, empty texts and nulls, each counted."""
    contract = load_contract(ROOT / "data_contracts" / "reviews.odcs.yaml")
    spoilt = tmp_path / "spoilt.parquet"
    demo_data.malform(demo_data.sample(domains["movie"], 300, 0), 0, rows_each=4).to_parquet(spoilt)
    with pytest.raises(ContractViolation) as caught:
        land(spoilt, tmp_path / "landing", contract, "reviews")
    assert {(r["column"], r["check"], r["rows"]) for r in caught.value.reasons} == {
        ("label", "unknown value", 4),
        ("text", "empty", 4),
        ("text", "null", 4),
    }


def opinions(rows: int = 100) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [str(i) for i in range(rows)],
            "text": [f"text {i}" for i in range(rows)],
            "label": ["negative", "positive"] * (rows // 2),
        }
    )


def test_flipping_turns_exactly_the_share_of_labels_round() -> None:
    """And leaves the frame it was given alone."""
    frame = opinions()
    before = frame.copy()
    flipped = demo_data.flip_labels(frame, 0.4, seed=3)
    assert (flipped["label"] != frame["label"]).sum() == 40
    assert set(flipped["label"]) == {"negative", "positive"}
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(flipped, demo_data.flip_labels(frame, 0.4, seed=3))


def test_a_sample_has_no_row_twice_and_follows_its_seed() -> None:
    """In random order, since the source is sorted by label."""
    frame = opinions()
    drawn = demo_data.sample(frame, 60, seed=1)
    assert drawn["id"].is_unique
    assert not (np.diff(drawn["id"].astype(int)) > 0).all()
    pd.testing.assert_frame_equal(drawn, demo_data.sample(frame, 60, seed=1))
    with pytest.raises(ValueError, match="only 100"):
        demo_data.sample(frame, 101, seed=1)


def test_a_missing_corpus_says_how_to_get_it(tmp_path: Path) -> None:
    """One command, and which file it brings."""
    with pytest.raises(ConfigError, match="make setup"):
        demo_data.prepare(tmp_path, tmp_path / "out")


def test_a_broken_corpus_says_so(tmp_path: Path) -> None:
    """An interrupted download is the usual reason."""
    (tmp_path / demo_data.SDIST).write_bytes(b"\x1f\x8b\x08 not an archive")
    with pytest.raises(ConfigError, match="fetch it again"):
        demo_data.prepare(tmp_path, tmp_path / "out")
