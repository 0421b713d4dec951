"""Draw training, selection and test rows from the corpora, never a test row from what is trained.

A corpus' own split is kept: rows are trained on from "train" and tested on from the others, and a
seed draws other rows of both. Corpora that share sentences (vader's movie with MR and SST-2,
vader's amazon with CR) are never in one run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from benchmarks.budget import Skipped
from benchmarks.reproduction.learner import Rows
from benchmarks.texts import labelled
from bhpeft.tasks.choice import Choice

# name → corpus of $BHPEFT_DATA and its domain; None for all of it.
SETS: dict[str, tuple[str, str | None]] = {
    "movie": ("vader4_sentiment", "movie"),
    "nyt": ("vader4_sentiment", "nyt"),
    "tweets": ("vader4_sentiment", "tweets"),
    "amazon": ("vader4_sentiment", "amazon"),
    "vader": ("vader4_sentiment", None),
    "trec6": ("trec6", None),
    "subj": ("subj", None),
    "sentences": ("uci_sentiment_sentences", None),
    "uci_amazon": ("uci_sentiment_sentences", "amazon"),
    "uci_imdb": ("uci_sentiment_sentences", "imdb"),
    "uci_yelp": ("uci_sentiment_sentences", "yelp"),
    "mpqa": ("sentconv_sentiment", "mpqa"),
    "clinc": ("clinc150", None),
    "news": ("ag_news_test", None),
}
OUT_OF_SCOPE = "oos"

# Questions with options, of BLoB's six sets: set → domain of the corpus.
QUESTIONS: dict[str, str] = {"openbookqa": "openbookqa", "boolq": "boolq"}
LETTERS = "ABCDE"

# One question asked by readers who draw the line elsewhere: set → (domain of vader's, the mean
# rating above which a text is "above", which half of the rows is theirs). No row has two readers.
READERS: dict[str, tuple[str, float, int]] = {
    "lenient on tweets": ("tweets", -0.5, 0),
    "strict on tweets": ("tweets", 1.5, 1),
    "lenient on amazon": ("amazon", -1.0, 0),
    "strict on amazon": ("amazon", 1.5, 1),
    "lenient on movie": ("movie", -1.5, 0),
    "strict on movie": ("movie", 1.5, 1),
}
# Speakers of the State of the Union: set → president. The last third of the speeches is for tests.
SPEAKERS: dict[str, str] = {
    "Jackson": "Andrew Jackson",
    "Truman": "Harry S. Truman",
    "Obama": "Barack Obama",
}


def labels_of(name: str) -> list[str]:
    """Return the labels of a set, sorted; out of scope is none."""
    return sorted(set(_table(name)["label"].astype(str)) - {OUT_OF_SCOPE})


def rows_of(
    name: str, seed: int, train: int, test: int, selection: int = 0
) -> tuple[Rows, Rows, Rows]:
    """Return training, selection and test rows of a set, each drawn anew by the seed.

    Raises:
        Skipped: the corpus is not here, or too small.
    """
    table, labels = _table(name), labels_of(name)
    table = table[table["label"] != OUT_OF_SCOPE]
    known = table[table["split"] == "train"].sample(frac=1.0, random_state=seed)
    unseen = table[table["split"] != "train"].sample(frac=1.0, random_state=seed)
    if len(known) < train + selection or len(unseen) < test:
        raise Skipped(f"{name} has {len(known)} and {len(unseen)} rows")
    return (
        _rows(known[:train], labels),
        _rows(known[train : train + selection], labels),
        _rows(unseen[:test], labels),
    )


def out_of_scope(name: str, seed: int, count: int) -> Rows:
    """Return rows of a set that belong to none of its labels; all are given the first."""
    table = _table(name)
    table = table[(table["label"] == OUT_OF_SCOPE) & (table["split"] != "train")]
    texts = table.sample(frac=1.0, random_state=seed)["text"].tolist()[:count]
    return Rows(texts, [0] * len(texts))


@cache
def _table(name: str) -> pd.DataFrame:
    if name in READERS:
        domain, line, half = READERS[name]
        mine = _table(domain).iloc[half::2]
        return mine.assign(label=np.where(mine["rating"] > line, "above", "below"))
    if name in SPEAKERS:
        return _speeches(SPEAKERS[name])
    if name in QUESTIONS:
        return _questions(QUESTIONS[name])
    corpus, domain = SETS[name]
    table = labelled(corpus)
    if "dup_in_train" in table:
        table = table[~table["dup_in_train"].fillna(False).astype(bool)]
    return table if domain is None else table[table["domain"] == domain]


def _speeches(speaker: str) -> pd.DataFrame:
    table = labelled("sotu_paragraphs")
    table = table[table["domain"] == speaker]
    held = sorted(table["fileid"].unique())[-max(1, table["fileid"].nunique() // 3) :]
    split = np.where(table["fileid"].isin(held), "test", "train")
    return table.assign(label="", split=split)


def _questions(domain: str) -> pd.DataFrame:
    """Return questions as the library asks them: options in lines, a letter for an answer."""
    table = labelled("commonsense_mcq")
    table = table[table["domain"] == domain]
    options = [json.loads(choices) for choices in table["choices"]]
    asked = Choice().inputs(table["text"].tolist(), options, LETTERS)
    return table.assign(text=asked, label=[LETTERS[int(place)] for place in table["label"]])


def _rows(table: pd.DataFrame, labels: Sequence[str]) -> Rows:
    index = {label: place for place, label in enumerate(labels)}
    return Rows(table["text"].tolist(), [index[str(label)] for label in table["label"]])
