"""Evidence and thresholds in, a blessing with its reasons out; the gate gathers nothing itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from endcap.contracts.errors import InputError
from endcap.contracts.release import Blessing
from endcap.evaluation.compare import Comparison, CountingComparison
from endcap.evaluation.intervals import Interval


@dataclass(frozen=True)
class Thresholds:
    """What a candidate must reach.

    `metric` is the one on which it must beat every baseline and the champion. `min_customers` holds for each counting;
    `min_slice_customers` is how many a slice needs before a loss in it counts. `at_least` maps flat names such as
    `all_purchases/recall@100` to the lowest mean that passes.
    """

    metric: str = "ndcg@10"
    min_customers: int = 100
    min_slice_customers: int = 50
    at_least: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GateEvidence:
    """What the gate judges: the comparison and, where there is a champion, its flat metrics on the same customers."""

    comparison: Comparison
    champion_metrics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class _Finding:
    passed: bool
    reason: str


def judge(evidence: GateEvidence, thresholds: Thresholds) -> Blessing:
    """BLESSED when nothing speaks against the candidate; the reasons are findings with their numbers.

    Under each counting the paired 95% interval of the metric, candidate minus baseline, must lie above zero for every
    baseline, on enough customers, and no slice of customers may lose to the best baseline beyond doubt. Further, each
    mean of `at_least` must be reached, and the champion beaten. A NOT_BLESSED verdict names only what failed. Raises
    InputError when a threshold names a metric that was not measured.
    """
    _check(evidence, thresholds)
    findings: list[_Finding] = []
    for part in evidence.comparison.countings.values():
        findings.append(_enough_customers(part, thresholds.min_customers))
        findings.extend(_against_baselines(part, thresholds.metric))
        findings.append(_in_slices(part, thresholds))
    findings.extend(_against_minimums(evidence, thresholds))
    findings.extend(_against_champion(evidence, thresholds.metric))
    failures = [finding.reason for finding in findings if not finding.passed]
    if failures:
        return Blessing(status="NOT_BLESSED", reasons=failures)
    return Blessing(status="BLESSED", reasons=[finding.reason for finding in findings])


def describe(interval: Interval) -> str:
    """A difference and its interval in words."""
    return f"{interval.mean:+.4f}, 95% interval {interval.low:+.4f} to {interval.high:+.4f}".replace("-", "\u2212")


def _check(evidence: GateEvidence, thresholds: Thresholds) -> None:
    for part in evidence.comparison.countings.values():
        if thresholds.metric not in part.candidate.metrics:
            raise InputError(_unknown(thresholds.metric, part.candidate.metrics))
    measured = evidence.comparison.flat_metrics()
    for name in thresholds.at_least:
        if name not in measured:
            raise InputError(_unknown(name, measured))
    if evidence.champion_metrics is not None:
        for counting in evidence.comparison.countings:
            if f"{counting}/{thresholds.metric}" not in evidence.champion_metrics:
                raise InputError(
                    f"The champion's metrics lack {counting}/{thresholds.metric}; measure the champion on the same "
                    "customers, or judge without one."
                )


def _unknown(name: str, known: Mapping[str, object]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"measured are: {', '.join(sorted(known))}."
    return f"The gate's threshold names the metric {name!r}, which was not measured; {hint}"


def _sentence(part: CountingComparison) -> str:
    return part.counting.label[0].upper() + part.counting.label[1:]


def _enough_customers(part: CountingComparison, min_customers: int) -> _Finding:
    passed = part.num_customers >= min_customers
    rule = f"at least {min_customers:,} are asked for"
    return _Finding(passed, f"{_sentence(part)}: measured on {part.num_customers:,} customers; {rule}.")


def _against_baselines(part: CountingComparison, metric: str) -> Iterator[_Finding]:
    mean = part.candidate.metrics[metric].mean
    best = part.best_baseline(metric)
    beaten = [baseline for baseline in part.baselines if part.differences[baseline.name][metric].above_zero]
    for baseline in part.baselines:
        difference = part.differences[baseline.name][metric]
        rank = "the best baseline" if baseline is best else "a baseline"
        sentence = (
            f"{_sentence(part)}: {metric} is {mean:.4f} against {baseline.metrics[metric].mean:.4f} of {rank}, "
            f"{baseline.title} (difference {describe(difference)}"
        )
        if baseline not in beaten:
            yield _Finding(False, f"{sentence}); the interval must lie above zero.")
        elif baseline is best:
            others = " and ".join(other.title for other in beaten if other is not best)
            yield _Finding(True, f"{sentence})" + (f"; it beats {others} beyond doubt too." if others else "."))


def _in_slices(part: CountingComparison, thresholds: Thresholds) -> _Finding:
    best = part.best_baseline(thresholds.metric)
    counted = [piece for piece in part.slices if piece.num_customers >= thresholds.min_slice_customers]
    lost = [
        f"{piece.label} earlier baskets ({piece.num_customers:,} customers, "
        f"{describe(piece.differences[best.name][thresholds.metric])})"
        for piece in counted
        if piece.differences[best.name][thresholds.metric].below_zero
    ]
    if lost:
        return _Finding(
            False, f"{_sentence(part)}: {thresholds.metric} is below {best.title} for customers with {'; '.join(lost)}."
        )
    return _Finding(
        True,
        f"{_sentence(part)}: none of {len(counted)} groups of customers by activity is served worse than by "
        f"{best.title} beyond doubt.",
    )


def _against_minimums(evidence: GateEvidence, thresholds: Thresholds) -> Iterator[_Finding]:
    measured = evidence.comparison.flat_metrics()
    for name, minimum in thresholds.at_least.items():
        passed = measured[name] >= minimum
        yield _Finding(
            passed, f"{name} is {measured[name]:.4f}, {'at least' if passed else 'below'} the minimum of {minimum:.4f}."
        )


def _against_champion(evidence: GateEvidence, metric: str) -> Iterator[_Finding]:
    if evidence.champion_metrics is None:
        return
    for counting, part in evidence.comparison.countings.items():
        mean, champion = part.candidate.metrics[metric].mean, evidence.champion_metrics[f"{counting}/{metric}"]
        passed = mean > champion
        yield _Finding(
            passed,
            f"{_sentence(part)}: {metric} is {mean:.4f}, {'above' if passed else 'not above'} the champion's {champion:.4f}.",
        )
