"""Put settings beside the default: paired by set and seed, judged by NLL, said in a sentence.

A pair is one set under one seed: its rows, their order and the test rows are the same for every
setting. Intervals are Student's t over the pairs. A setting is *surely* better or worse where the
whole interval of its NLL less the default's says so; what is left is not told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.reproduction.cells import Result
from benchmarks.reproduction.claim import Criterion, Judged, Table
from benchmarks.reproduction.said import Said, pooled
from benchmarks.reproduction.statistics import Estimate, difference_over_seeds

# Setting → (set, seed) → what was said of the test rows.
Pair = tuple[str, int]
Seen = Mapping[str, Mapping[Pair, Said]]


# Setting → (set, seed) → what its cell found.
Results = Mapping[str, Mapping[Pair, Result]]


def said_by(results: Results, reading: str) -> dict[str, dict[Pair, Said]]:
    """Return what each setting said of the test rows in one of its readings."""
    return {
        way: {pair: Said.of(one["readings"][reading]["test"]) for pair, one in found.items()}
        for way, found in results.items()
    }


def training_seconds(results: Results) -> dict[str, float]:
    """Return the mean CPU seconds of a training, by setting, over the pairs that all have."""
    known = {way: found for way, found in results.items() if found}
    alike = sorted(set.intersection(*(set(found) for found in known.values()))) if known else []
    return {
        way: float(np.mean([found[pair]["seconds"] for pair in alike]))
        for way, found in known.items()
        if alike
    }


def compared(
    seen: Seen, default: str, title: str, seconds: Mapping[str, float] | None = None
) -> Judged:
    """Return every setting beside the default.

    Args:
        seen: what each setting said; only pairs that the default has too count.
        default: the setting that is the library's, or the page's `ours`.
        title: of the table, behind the names of its sets.
        seconds: CPU seconds of a training by setting, where they are known.
    """
    known, others = seen.get(default, {}), _others(seen, default)
    if not others:
        return Judged()
    gaps = gaps_in_nll(seen, default)
    criteria = [
        Criterion(f"NLL of {way} − of {default}, nats", gap, 0.0, decides=False)
        for way, gap in gaps.items()
    ]
    # Absolute figures are of the same rows for every setting.
    alike = sorted(set(known).intersection(*others.values()))
    rows = [_row(default, known, sorted(known), known, alike, seconds)]
    rows += [_row(way, seen[way], pairs, known, alike, seconds) for way, pairs in others.items()]
    columns = [
        "", "accuracy, %", "less the default's, points", "NLL, nats", "less the default's",
        "ECE", *(["CPU seconds of a training"] if seconds else []), "sets × seeds",
    ]  # fmt: skip
    seeds = sorted({seed for pairs in others.values() for _, seed in pairs})
    names = ", ".join(dict.fromkeys(name for name, _ in alike))
    title = f"{names}: {title}; absolute figures of the {len(alike)} sets × seeds all rows have"
    return Judged(
        criteria, seeds, [Table(title, columns, rows)], (), [sentence(default, gaps)],
        verdict(gaps),
    )  # fmt: skip


def gaps_in_nll(seen: Seen, default: str) -> dict[str, Estimate]:
    """Return NLL less the default's for every other setting, over the pairs both have."""
    others = _others(seen, default)
    return {way: _gap(seen[way], seen[default], pairs, _nll) for way, pairs in others.items()}


def _others(seen: Seen, default: str) -> dict[str, list[Pair]]:
    """Return the pairs that each other setting and the default have."""
    known = set(seen.get(default, {}))
    both = {way: sorted(set(found) & known) for way, found in seen.items() if way != default}
    return {way: pairs for way, pairs in both.items() if pairs}


def _nll(said: Said) -> float:
    return float(said.nll.mean())


def _accuracy(said: Said) -> float:
    return float(100 * said.right.mean())


def _gap(found: Mapping[Pair, Said], known: Mapping[Pair, Said], pairs: Sequence[Pair], figure):
    sides = ([figure(side[pair]) for pair in pairs] for side in (found, known))
    return difference_over_seeds(*sides)


def _row(
    way: str,
    found: Mapping[Pair, Said],
    pairs: Sequence[Pair],
    known: Mapping[Pair, Said],
    alike: Sequence[Pair],
    seconds: Mapping[str, float] | None,
) -> list[str]:
    shown = [found[pair] for pair in alike or pairs]
    whole = pooled(shown)
    gained, gap = (_gap(found, known, pairs, figure) for figure in (_accuracy, _nll))
    same = found is known
    return [
        f"**{way}**" if same else way,
        f"{np.mean([_accuracy(one) for one in shown]):.1f}",
        "" if same else f"{gained.value:+.1f} ({gained.spread})",
        f"{np.mean([_nll(one) for one in shown]):.3f}",
        "" if same else f"{gap.value:+.3f} ({gap.spread})",
        f"{whole.ece(np.ones((1, len(whole.nll))))[0]:.3f}",
        *([f"{seconds[way]:.1f}" if way in seconds else ""] if seconds else []),
        str(len(pairs)),
    ]


def _by_sureness(gaps: Mapping[str, Estimate]) -> dict[str, list[str]]:
    """Return which settings are surely better, surely worse and not told apart."""
    return {
        "better": [way for way, gap in gaps.items() if gap.high < 0],
        "worse": [way for way, gap in gaps.items() if gap.low > 0],
        "same": [way for way, gap in gaps.items() if gap.low <= 0 <= gap.high],
    }


def sentence(default: str, gaps: Mapping[str, Estimate]) -> str:
    """Return what differences in NLL from the default's say, in words."""
    found = _by_sureness(gaps)
    parts = [
        f"{told} {_listed(found[kind], gaps)}"
        for kind, told in (
            ("better", "surely better by NLL:"),
            ("worse", "surely worse:"),
            ("same", "not told apart:"),
        )
        if found[kind]
    ]
    return f"Beside {default}: {'; '.join(parts)}."


def _listed(ways: Sequence[str], gaps: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{way} ({gaps[way].value:+.3f})" for way in ways)


def verdict(gaps: Mapping[str, Estimate]) -> str:
    """Return which settings are surely better, if any."""
    better = _by_sureness(gaps)["better"]
    return "surely better: " + ", ".join(better) if better else "nothing is surely better"
