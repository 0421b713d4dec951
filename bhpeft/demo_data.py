"""Prepare the demo's data: four domains of short opinions that 15 or more people have rated.

The VADER corpus (Hutto and Gilbert, ICWSM 2014; MIT licence) comes inside the source distribution
of `vaderSentiment`. Also here: what the demo does to a batch to see it refused.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bhpeft.errors import ConfigError

SDIST = "vaderSentiment-3.3.2.tar.gz"
_INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
_FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
DOMAINS = tuple(_FILES)

# People were divided about texts with a mean rating closer to zero: their sign is mostly noise.
CLEAR_RATING = 0.5

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("rating", pa.float64()),
    ]
)


def prepare(source: Path | str, out: Path | str) -> dict[str, Path]:
    """Write one Parquet file a domain: id, text, label, domain, rating.

    Texts of unclear polarity and repeated texts are left out; the order is the source's.

    Args:
        source: the source distribution, or a folder that it lies in.
        out: the folder to write into.

    Raises:
        ConfigError: the source distribution is not there or is not the expected one.
    """
    sdist, out = _find(Path(source)), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = {}
    for domain, content in _ground_truth(sdist):
        written[domain] = out / f"{domain}.parquet"
        table = pa.Table.from_pandas(_parse(domain, content), _SCHEMA, preserve_index=False)
        pq.write_table(table.replace_schema_metadata(None), written[domain])
    return written


def sample(rows: Path | pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    """Return `n` rows drawn without replacement, in random order: the source is sorted.

    Raises:
        ValueError: there are fewer.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.read_parquet(rows)
    if n > len(frame):
        raise ValueError(f"{n} rows were asked for, but there are only {len(frame)}")
    chosen = np.random.default_rng(seed).choice(len(frame), size=n, replace=False)
    return frame.iloc[chosen].reset_index(drop=True)


def flip_labels(frame: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Return the rows with a share of their labels turned round: a poisoned batch."""
    flipped = frame.copy()
    chosen = np.random.default_rng(seed).choice(
        len(frame), size=round(share * len(frame)), replace=False
    )
    other = frame["label"].map({"negative": "positive", "positive": "negative"})
    flipped.loc[frame.index[chosen], "label"] = other.iloc[chosen]
    return flipped


def malform(frame: pd.DataFrame, seed: int, rows_each: int = 5) -> pd.DataFrame:
    """Return the rows with unknown labels, empty texts and nulls: a batch to be quarantined.

    `rows_each` rows are spoilt in each of the three ways.
    """
    spoilt = frame.copy()
    chosen = np.random.default_rng(seed).choice(len(frame), size=3 * rows_each, replace=False)
    unknown, empty, null = (frame.index[part] for part in np.split(chosen, 3))
    spoilt.loc[unknown, "label"] = "mixed"
    spoilt.loc[empty, "text"] = "  "
    spoilt.loc[null, "text"] = None
    return spoilt


def _find(source: Path) -> Path:
    sdist = source / SDIST if source.is_dir() else source
    if not sdist.is_file():
        raise ConfigError(
            "The demo's data is not there",
            found=f"no {sdist}",
            expected=f"the source distribution {SDIST}",
            remedy="`make setup` fetches it: pip download --no-deps --no-binary=:all: "
            "vaderSentiment==3.3.2",
        )
    return sdist


def _ground_truth(sdist: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(sdist) as outer:
            inner = _member(outer, _INNER)
        with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
            for domain, name in _FILES.items():
                yield domain, _member(archive, name)
    except (tarfile.TarError, EOFError, OSError) as problem:
        raise ConfigError(
            f"{sdist} cannot be read",
            found=str(problem),
            expected=f"the source distribution {SDIST}",
            remedy="Delete it and fetch it again with `make setup`.",
        ) from problem


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return a file's bytes by the end of its name; nothing is ever unpacked onto the disk."""
    for member in archive:
        if member.name.endswith(f"/{name}"):
            file = archive.extractfile(member)
            if file is not None:
                return file.read()
    raise tarfile.TarError(f"no {name} in it")


def _parse(domain: str, content: bytes) -> pd.DataFrame:
    """Parse lines of id, mean rating and text, parted by tabs."""
    rows = []
    for line in _decoded(content).splitlines():
        number, rating, text = line.split("\t", 2)
        rows.append((f"{domain}-{number}", " ".join(text.split()), float(rating)))
    frame = pd.DataFrame(rows, columns=["id", "text", "rating"])
    clear = frame[frame["rating"].abs() >= CLEAR_RATING]
    clear = clear[clear["text"] != ""].drop_duplicates("text").reset_index(drop=True)
    clear["label"] = np.where(clear["rating"] > 0, "positive", "negative")
    clear["domain"] = domain
    return clear[_SCHEMA.names]


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        # Every byte is a Latin-1 character, so this cannot fail.
        return content.decode("latin-1")
