"""Gates on what the candidate is: its posterior, the data it learned from, and its cost."""

from __future__ import annotations

from math import isfinite

from bhpeft.judgement.report import RoundReport
from bhpeft.judgement.verdict import Verdict, at_most, unknown
from bhpeft.learning.predictors import EXACT


def posterior(
    report: RoundReport,
    *,
    ratio_low: float = 0.01,
    ratio_high: float = 2.0,
    share: float = 0.25,
) -> Verdict:
    """Pass where the posterior is finite, its σ in range, and σ had the steps to get there.

    `ratio_low` … `ratio_high` bound the median of σ over the base prior's σ: a collapsed posterior
    cannot learn any more (σ falls as 1/√rounds), one wider than its prior has not learned at all.
    At most `share` of the σ may sit at the floor or at the ceiling. What is None does not apply (a
    point estimate has no σ) and is not judged; without "finite" nothing is.
    """
    health = report.posterior
    finite = health.get("finite")
    if finite is None:
        return unknown("posterior", "the round reported nothing about its posterior")
    if not finite:
        return Verdict("posterior", "fail", None, None, "a mean, σ or point weight is not finite")
    if health.get("rho_travel_met") is False:
        return Verdict(
            "posterior", "fail", None, None, "too few steps for σ to reach its optimum (rho travel)"
        )
    stuck = [name for name in ("floor", "ceiling") if (health.get(f"share_{name}") or 0.0) > share]
    for name in stuck:
        value = float(health[f"share_{name}"])
        reason = f"{value:.0%} of the σ sit at the {name}, allowed {share:.0%}"
        return Verdict("posterior", "fail", value, share, reason)
    return _ratio(health.get("std_ratio_median"), ratio_low, ratio_high)


def _ratio(ratio: float | None, low: float, high: float) -> Verdict:
    if ratio is None:
        return Verdict("posterior", "pass", None, None, "finite; no Gaussian weights to judge")
    reason = f"median σ is {ratio:.3g} of the base prior's, allowed {low:g} … {high:g}"
    inside = low <= ratio <= high  # false for NaN too
    limit = low if ratio < low else high
    return Verdict("posterior", "pass" if inside else "fail", float(ratio), limit, reason)


def drift(report: RoundReport) -> Verdict:
    """Hold the candidate for a person where the batch is unlike anything known; else pass.

    Ordinary drift passes: learning from it is what rounds are for, and the other gates judge the
    result. When drift is extreme is said by `DriftRule`.
    """
    found = report.drift
    if found is None:
        return unknown("drift", "drift was not looked for")
    if found["extreme"] is None:
        return unknown("drift", "too few rows in the batch or the reference to judge drift")
    share = found["share"]
    if found["extreme"]:
        return Verdict("drift", "hold", share, None, "extreme: " + "; ".join(found["reasons"]))
    judged = {name: column["drifted"] for name, column in found["columns"].items()}
    names = [name for name, drifted in judged.items() if drifted]
    if not found["drifted"]:
        reason = f"no drift: {len(names)} of {len(judged)} columns moved"
    else:
        reason = f"drift in {', '.join(names)}, none of it extreme"
    return Verdict("drift", "pass", share, None, reason)


def fidelity(
    report: RoundReport, *, kl_ratio: float = 2.0, rank_gap: float = 0.2, slack_nats: float = 1e-3
) -> Verdict:
    """Hold the candidate where its predictor says something else than its posterior does.

    Its KL to the gold may be `kl_ratio` times that of ten independent draws of all weights, which
    is what everyone predicts with, and its mutual information may rank rows worse than theirs by
    `rank_gap` of rank correlation. The limits leave room for what some thirty rows leave open. A KL
    under `slack_nats` is none. The candidate is not at fault, so a person looks: another predictor
    can be named in the stream file. Draws of all weights always pass: what parts them from the gold
    is the noise of their number, which the stream file chose, and no approximation.
    """
    found = report.fidelity
    if found is None:
        return unknown("fidelity", "the predictor was not measured against its posterior")
    if found["predictor"] == EXACT and "kl" not in found:
        return Verdict("fidelity", "pass", None, None, "all weights are drawn: no approximation")
    ratio, gap, nats = (float(found[name]) for name in ("kl_ratio", "rank_gap", "kl"))
    if not (isfinite(ratio) and isfinite(gap) and isfinite(nats)):
        return unknown("fidelity", "what the predictor or the gold said is not finite")
    exact = found["predictor"] == EXACT
    close, ranks = exact or ratio <= kl_ratio or nats <= slack_nats, exact or gap >= -rank_gap
    reason = (
        f"{found['predictor']}: {nats:.2g} nats from the gold, {ratio:.2g} of ten draws' (allowed "
        f"{kl_ratio:g}); ranks {gap:+.2g} to theirs (allowed {-rank_gap:g})"
    )
    value, limit = (gap, -rank_gap) if close and not ranks else (ratio, kl_ratio)
    return Verdict("fidelity", "pass" if close and ranks else "hold", value, limit, reason)


def budget(report: RoundReport, *, ratio: float = 1.5, slack_milliseconds: float = 2.0) -> Verdict:
    """Pass where latency and size are at most `ratio` times the champion's.

    `slack_milliseconds` a row are free: on a busy machine short times vary by that much, and a
    candidate must not be refused for its neighbours' load.
    """
    verdicts = [
        _against(report, "state_bytes", "size", "bytes", ratio, 0.0),
        _against(report, "milliseconds_per_row", "latency", "ms a row", ratio, slack_milliseconds),
    ]
    judged = [verdict for verdict in verdicts if verdict is not None]
    if not judged:
        return unknown("budget", "there is no champion's cost to compare with")
    reason = "; ".join(verdict.reason for verdict in judged)
    worst = max(judged, key=lambda verdict: (verdict.value or 0.0) / (verdict.limit or 1.0))
    return Verdict("budget", worst.outcome, worst.value, worst.limit, reason)


def _against(
    report: RoundReport, name: str, what: str, unit: str, ratio: float, slack: float
) -> Verdict | None:
    value, champion = report.cost.get(name), report.cost.get(f"champion_{name}")
    if value is None or champion is None:
        return None
    limit = ratio * champion + slack
    reason = f"{what} {value:,.4g} {unit}, champion {champion:,.4g}, allowed {limit:,.4g}"
    return at_most("budget", float(value), float(limit), reason)
