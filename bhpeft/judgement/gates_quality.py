"""Gates on what the candidate predicts: NLL, headline, forgetting, slices, calibration, rejection.

Each compares with the champion, or in the first round with the baseline (the label shares). Which
figure is the headline (accuracy), and whether more of it is better, is the task's to say; a margin
in a figure that has the data's units is a share of the reference's. The limits are keyword
arguments; a stream file overrides them by name.

Noise. A hold-out of 300 rows knows accuracy to about 2 points, so a bare limit of 1 or 2 points
would refuse honest candidates by chance. The strict test is the paired NLL, the most sensitive of
the scores and the one the posterior optimises: there the *upper bound* of the difference must be
small, so that missing evidence counts against the candidate. The other gates guard single
properties and give the benefit of the doubt: their limit is a margin plus one paired-bootstrap
standard deviation of the difference. Below `min_rows` nothing is claimed: not evaluable.
"""

from __future__ import annotations

import math

from bhpeft.judgement.bootstrap import Interval
from bhpeft.judgement.quality import SetReport
from bhpeft.judgement.report import RoundReport
from bhpeft.judgement.verdict import Verdict, at_most, unknown
from bhpeft.tasks import Headline


def paired_nll(report: RoundReport, *, margin: float = 0.01, min_rows: float = 50) -> Verdict:
    """Pass where the candidate's NLL is surely not worse than the reference's by over `margin`.

    Judged is the one-sided 95 % bound of the paired difference on the new batch's hold-out and
    nothing else: pooling in old rows would let knowledge of the past hide a failure on the new.
    The bound lies 1.6 standard errors above the difference: 0.03 nats on 200 rows whose
    differences vary by 0.25. A stream with small batches should set `margin` accordingly.
    """
    missing = _missing("nll", report.holdout, min_rows)
    if missing is not None:
        return missing
    found = report.holdout
    difference = found.differences["nll"]
    reason = (
        f"NLL {found.candidate.nll:.3f} against the {found.against}'s {found.reference.nll:.3f} "
        f"on {found.rows} rows: difference {difference.mean:+.3f}, "
        f"95 % upper bound {difference.upper:+.3f}, allowed {margin:+.3g}"
    )
    return at_most("nll", difference.upper, margin, reason)


def accuracy(
    report: RoundReport, *, margin: float = 0.01, sds: float = 1.0, min_rows: float = 50
) -> Verdict:
    """Pass where accuracy on the new hold-out fell by at most `margin` plus `sds` bootstrap sd."""
    return _headline("accuracy", report, margin, sds, min_rows)


def rmse(
    report: RoundReport, *, margin: float = 0.02, sds: float = 1.0, min_rows: float = 50
) -> Verdict:
    """Pass where RMSE on the new hold-out rose by at most `margin` of itself plus `sds` sd."""
    return _headline("rmse", report, margin, sds, min_rows)


def rejection(
    report: RoundReport, *, margin: float = 0.01, sds: float = 1.0, min_rows: float = 50
) -> Verdict:
    """Pass where the headline with the 20 % most uncertain rows refused lost at most the same."""
    rejected = report.holdout.figures.rejected
    if not rejected:
        return unknown("rejection", "the task has no figure for rows that are refused")
    missing = _missing("rejection", report.holdout, min_rows)
    return missing or _drop("rejection", report.holdout, rejected, margin, sds)


def forgetting(
    report: RoundReport,
    *,
    accuracy_margin: float = 0.02,
    nll_margin: float = 0.05,
    sds: float = 1.0,
    min_rows: float = 50,
) -> Verdict:
    """Pass where no frozen regression set lost over 2 points of its headline or 0.05 nats of NLL.

    This is the gate that catches a poisoned batch: its hold-out is poisoned like the rest, so the
    candidate looks well there, and only rows from before the batch can tell. NLL is judged as well
    because doubt shows there first: accuracy moves only once labels tip over.
    """
    if not report.regression:
        return unknown("forgetting", "there are no regression sets yet")
    verdicts = [
        _missing("forgetting", known, min_rows, known.name)
        or _worse(
            _drop(
                "forgetting", known, known.figures.headline.name, accuracy_margin, sds, known.name
            ),
            _nll_rise(known, nll_margin, sds),
        )
        for known in report.regression
    ]
    return _worst(verdicts)


def slices(
    report: RoundReport, *, margin: float = 0.05, sds: float = 1.0, min_rows: float = 30
) -> Verdict:
    """Pass where the headline on no slice of the hold-out lost over `margin` plus `sds` sd.

    The margin is wider than the whole hold-out's. Two equally good models that disagree on 10 % of
    rows would fail on one of ten slices of 100 rows two times in five with 2 points, and one time
    in 20 with 5 points.
    """
    if not report.slices:
        return unknown("slices", "the contract names no slices, or the hold-out is empty")
    headline = report.holdout.figures.headline
    verdicts = []
    for piece in report.slices:
        name = f"{piece.column} = {piece.value}"
        if piece.rows < min_rows:
            verdicts.append(unknown("slices", f"{name} has {piece.rows} rows, {min_rows:g} needed"))
        elif math.isnan(piece.candidate):
            verdicts.append(_not_finite("slices"))
        elif piece.difference is None:
            verdicts.append(unknown("slices", "what the champion says is not finite"))
        else:
            what = f"{headline.told} on {name}"
            pair = piece.reference, piece.candidate
            verdicts.append(_lost("slices", what, headline, pair, piece.difference, margin, sds))
    return _worst(verdicts)


def calibration(
    report: RoundReport,
    *,
    sds: float = 1.0,
    cap: float = 0.1,
    cap_rows: float = 2000,
    min_rows: float = 50,
) -> Verdict:
    """Pass where the calibration error (ECE) is within chance, or not worse than the champion's.

    The limit is the larger of two: the top of the 95 % range a perfectly calibrated model with
    these probabilities would show, and the champion's ECE plus `sds` bootstrap sd of the
    difference. Below the range is fine. In the first round `cap` takes the champion's place: the
    baseline knows nothing and is therefore perfectly calibrated, which makes it no yardstick.
    `cap` also holds absolutely from `cap_rows` rows up, where ECE is no longer mostly noise.

    An error in nats, a language model's, has no cap that would fit every kind of text. There the
    baseline is the base model itself, which has an error to compare with in the first round too.
    """
    error = report.holdout.figures.calibration
    if error is None:
        return unknown("calibration", "the task has no figure for calibration")
    missing = _missing("calibration", report.holdout, min_rows)
    if missing is not None:
        return missing
    found = report.holdout
    figure, said = error
    value, null = (getattr(found.candidate, name) for name in (figure, f"{figure}_null_high"))
    reference = getattr(found.reference, figure) + sds * found.differences[figure].sd
    capped = found.figures.probable
    first = report.first and capped
    other = cap if first else reference
    limit = max(null, other)
    told = "first-round cap" if first else f"{found.against}'s plus its sd"
    reason = (
        f"{said} {value:.3f} on {found.rows} rows; chance allows {null:.3f}, {told} {other:.3f}"
    )
    if capped and found.rows >= cap_rows and cap < limit:
        limit, reason = cap, f"{reason}; from {cap_rows:g} rows up at most {cap:g}"
    return at_most("calibration", value, limit, reason)


def _missing(
    gate: str, found: SetReport, min_rows: float, name: str = "the hold-out"
) -> Verdict | None:
    if found.rows < min_rows:
        return unknown(gate, f"{name} has {found.rows} rows, at least {min_rows:g} are needed")
    if not math.isfinite(found.candidate.nll):
        return _not_finite(gate)
    if not found.differences:
        return unknown(gate, f"what the {found.against} says on {name} is not finite")
    return None


def _not_finite(gate: str) -> Verdict:
    return Verdict(gate, "fail", None, None, "what the candidate says is not finite")


def _headline(
    gate: str, report: RoundReport, margin: float, sds: float, min_rows: float
) -> Verdict:
    if report.holdout.figures.headline.name != gate:
        return unknown(gate, f"the task has no {gate}")
    missing = _missing(gate, report.holdout, min_rows)
    return missing or _drop(gate, report.holdout, gate, margin, sds)


def _drop(
    gate: str, found: SetReport, metric: str, margin: float, sds: float, name: str = "the hold-out"
) -> Verdict:
    headline = found.figures.headline
    rejected = " at 20 % rejection" if metric == found.figures.rejected else ""
    pair = getattr(found.reference, metric), getattr(found.candidate, metric)
    what = f"{headline.told}{rejected} on {name}"
    return _lost(gate, what, headline, pair, found.differences[metric], margin, sds)


def _lost(
    gate: str,
    what: str,
    headline: Headline,
    pair: tuple[float, float],
    difference: Interval,
    margin: float,
    sds: float,
) -> Verdict:
    """Judge a headline that went from one figure to the other."""
    before, after = pair
    allowed = margin * headline.unit(before)
    reason = (
        f"{what} {'fell' if after < before else 'rose'} {abs(after - before):.3f} "
        f"({before:.3f} → {after:.3f}), "
        f"allowed {allowed:.3g} + {sds:g} bootstrap sd {difference.sd:.3f}"
    )
    limit = allowed + sds * difference.sd
    return at_most(gate, headline.loss(difference.mean), limit, reason)


def _nll_rise(found: SetReport, margin: float, sds: float) -> Verdict:
    difference = found.differences["nll"]
    reason = (
        f"NLL on {found.name} {'rose' if difference.mean > 0 else 'fell'} "
        f"{abs(difference.mean):.3f} ({found.reference.nll:.3f} → {found.candidate.nll:.3f}), "
        f"allowed {margin:g} + {sds:g} bootstrap sd {difference.sd:.3f}"
    )
    return at_most("forgetting", difference.mean, margin + sds * difference.sd, reason)


def _worst(verdicts: list[Verdict]) -> Verdict:
    """Return the verdict to report for several sets: the failure with the most excess.

    A set that cannot be evaluated does not hide the others; only if none can is the answer
    "not evaluable".
    """
    judged = [verdict for verdict in verdicts if verdict.outcome != "not_evaluable"]
    if not judged:
        return verdicts[0]
    worst = judged[0]
    for verdict in judged[1:]:
        worst = _worse(worst, verdict)
    failures = sum(verdict.outcome == "fail" for verdict in judged)
    if failures < 2:
        return worst
    reason = f"{worst.reason}; {failures} of {len(judged)} fail"
    return Verdict(worst.gate, worst.outcome, worst.value, worst.limit, reason)


def _worse(left: Verdict, right: Verdict) -> Verdict:
    return left if _badness(left) >= _badness(right) else right


def _badness(verdict: Verdict) -> tuple[bool, float]:
    """Return failures first, then value ÷ limit, infinite for a failure without numbers."""
    failed = verdict.outcome == "fail"
    if verdict.value is None or verdict.limit is None:
        return failed, math.inf
    return failed, verdict.value / max(verdict.limit, 1e-9)
