"""Evidence and thresholds in, a blessing with its reasons out; the gate gathers nothing itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from endcap.contracts.errors import InputError
from endcap.contracts.release import Blessing
from endcap.evaluation.compare import Comparison, CountingComparison, SystemScores
from endcap.evaluation.intervals import Interval
from endcap.evaluation.off_policy import Estimate


@dataclass(frozen=True)
class Thresholds:
    """What a candidate must reach.

    `metric` is the one on which it must beat every baseline and the champion. `min_customers` holds for each counting;
    `min_slice_customers` is how many a slice needs before a loss in it counts. `at_least` maps flat names such as
    `all_purchases/recall@100` to the lowest mean that passes.

    `champion_margin` is how far above the champion the whole paired interval must lie. `max_slice_loss` is what a slice may
    lose to the best baseline or the champion: a slice fails when its whole paired interval lies below minus that;
    `max_item_slice_loss` is the same for groups of products, which share the places of one list: what one gains another loses.
    `max_parity_gap` is the largest difference of a score between the trained model and its exported graph;
    `max_answer_ms` the longest time that 95 of 100 answers may take, None for any.
    """

    metric: str = "ndcg@10"
    min_customers: int = 100
    min_slice_customers: int = 50
    at_least: Mapping[str, float] = field(default_factory=dict)
    champion_margin: float = 0.0
    max_slice_loss: float = 0.0
    max_item_slice_loss: float = 0.05
    max_parity_gap: float = 1e-3
    max_answer_ms: float | None = None


@dataclass(frozen=True)
class Champion:
    """The release in production, ranked on the same customers: `comparison` is that of the candidate with it alone."""

    name: str
    comparison: Comparison


@dataclass(frozen=True)
class GraphParity:
    """How far the exported graphs are from the model that was trained, over `num_compared` scores.

    Of `num_lists` lists of the best products `num_equal_lists` are the same, product by product.
    """

    max_gap: float
    num_compared: int
    num_lists: int = 0
    num_equal_lists: int = 0


@dataclass(frozen=True)
class AnswerTime:
    """How long the release takes to answer one request."""

    p50_ms: float
    p95_ms: float
    num_requests: int


@dataclass(frozen=True)
class GateEvidence:
    """What the gate judges: the comparison with the baselines and whatever else was measured.

    `champion_metrics` are a champion's flat metrics on the same customers, for where its rankings are not at hand; a
    `champion` is judged customer by customer instead. `estimates` are what logged propensities say of the candidate.
    """

    comparison: Comparison
    champion_metrics: Mapping[str, float] | None = None
    champion: Champion | None = None
    parity: GraphParity | None = None
    answer_time: AnswerTime | None = None
    estimates: Sequence[Estimate] = ()


@dataclass(frozen=True)
class _Finding:
    passed: bool
    reason: str


def judge(evidence: GateEvidence, thresholds: Thresholds) -> Blessing:
    """BLESSED when nothing speaks against the candidate; the reasons are findings with their numbers.

    Under each counting the paired 95% interval of the metric, candidate minus baseline, must lie above zero for every
    baseline, on enough customers, and no slice of customers may lose to the best baseline beyond doubt. Further, each
    mean of `at_least` must be reached, and the champion beaten by the margin, again without a slice that loses beyond
    doubt; the exported graph must answer as the model does, and in time; and no estimate from logged propensities may lie
    below what the logged policy earned beyond doubt, unless the log itself leaves doubts, which are told. A NOT_BLESSED verdict names only what failed. Raises InputError when
    a threshold names a metric that was not measured.
    """
    _check(evidence, thresholds)
    findings: list[_Finding] = []
    for part in evidence.comparison.countings.values():
        findings.append(_enough_customers(part, thresholds.min_customers))
        findings.extend(_against_baselines(part, thresholds.metric))
        findings.extend(_in_slices(part, part.best_baseline(thresholds.metric), thresholds))
    findings.extend(_against_minimums(evidence, thresholds))
    findings.extend(_against_champion_metrics(evidence, thresholds.metric))
    if evidence.champion is not None:
        findings.extend(_against_champion(evidence.champion, thresholds))
    findings.extend(_as_served(evidence, thresholds))
    findings.extend(_as_estimated(evidence.estimates))
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


def _in_slices(part: CountingComparison, other: SystemScores, thresholds: Thresholds) -> Iterator[_Finding]:
    yield _in_groups(part, other, thresholds, "customers", thresholds.max_slice_loss)
    if any(not piece.tells_customers_apart for piece in part.slices):
        yield _in_groups(part, other, thresholds, "products or purchases", thresholds.max_item_slice_loss)


def _in_groups(
    part: CountingComparison, other: SystemScores, thresholds: Thresholds, kind: str, bound: float
) -> _Finding:
    of_customers = kind == "customers"
    counted = [
        piece
        for piece in part.slices
        if piece.tells_customers_apart == of_customers and piece.num_customers >= thresholds.min_slice_customers
    ]
    lost = [
        f"{piece.title} ({piece.num_customers:,} customers, "
        f"{describe(piece.differences[other.name][thresholds.metric])})"
        for piece in counted
        if piece.differences[other.name][thresholds.metric].high < -bound
    ]
    by_more = f" by more than {bound:.4f}" if bound else ""
    if lost:
        asked = "customers with" if of_customers else kind
        return _Finding(
            False,
            f"{_sentence(part)}: {thresholds.metric} is below {other.title}{by_more} for {asked} {'; '.join(lost)}.",
        )
    columns = ", ".join(dict.fromkeys(piece.column for piece in counted))
    by = f" of {kind} by {columns}" if columns else f" of {kind}"
    return _Finding(
        True,
        f"{_sentence(part)}: none of {len(counted)} groups{by} is served worse than by "
        f"{other.title}{by_more} beyond doubt.",
    )


def _against_minimums(evidence: GateEvidence, thresholds: Thresholds) -> Iterator[_Finding]:
    measured = evidence.comparison.flat_metrics()
    for name, minimum in thresholds.at_least.items():
        passed = measured[name] >= minimum
        yield _Finding(
            passed, f"{name} is {measured[name]:.4f}, {'at least' if passed else 'below'} the minimum of {minimum:.4f}."
        )


def _against_champion_metrics(evidence: GateEvidence, metric: str) -> Iterator[_Finding]:
    if evidence.champion_metrics is None:
        return
    for counting, part in evidence.comparison.countings.items():
        mean, champion = part.candidate.metrics[metric].mean, evidence.champion_metrics[f"{counting}/{metric}"]
        passed = mean > champion
        yield _Finding(
            passed,
            f"{_sentence(part)}: {metric} is {mean:.4f}, {'above' if passed else 'not above'} the champion's {champion:.4f}.",
        )


def _against_champion(champion: Champion, thresholds: Thresholds) -> Iterator[_Finding]:
    metric, margin = thresholds.metric, thresholds.champion_margin
    for part in champion.comparison.countings.values():
        (other,) = part.baselines
        difference = part.differences[other.name][metric]
        sentence = (
            f"{_sentence(part)}: {metric} is {part.candidate.metrics[metric].mean:.4f} against {other.metrics[metric].mean:.4f} "
            f"of the champion, {champion.name} (paired difference {describe(difference)}"
        )
        passed = difference.low > margin
        rule = f"the margin of {margin:.4f}" if margin else "zero"
        yield _Finding(passed, f"{sentence})." if passed else f"{sentence}); the interval must lie above {rule}.")
        yield from _in_slices(part, other, thresholds)


def _as_served(evidence: GateEvidence, thresholds: Thresholds) -> Iterator[_Finding]:
    if (parity := evidence.parity) is not None:
        passed = parity.max_gap <= thresholds.max_parity_gap  # NaN does not pass
        yield _Finding(
            passed,
            f"The exported graph differs from the trained model by {parity.max_gap:.2g} at most over "
            f"{parity.num_compared:,} scores; {'no more than' if passed else 'expected at most'} {thresholds.max_parity_gap:.2g}."
            + (f" {parity.num_equal_lists:,} of {parity.num_lists:,} lists are equal." if parity.num_lists else ""),
        )
    if (time := evidence.answer_time) is not None:
        bound = thresholds.max_answer_ms
        measured = (
            f"An answer takes {time.p50_ms:.1f} ms at the median and {time.p95_ms:.1f} ms at the 95th percentile of "
            f"{time.num_requests:,} requests"
        )
        if bound is None:
            yield _Finding(True, f"{measured}; no bound is set.")
        else:
            passed = time.p95_ms <= bound
            yield _Finding(
                passed, f"{measured}; {'within the bound of' if passed else 'expected at most'} {bound:g} ms."
            )


def _as_estimated(estimates: Sequence[Estimate]) -> Iterator[_Finding]:
    for estimate in estimates:
        sentence = (
            f"By {estimate.estimator} from {estimate.num_rows:,} logged rows (as good as {estimate.effective_size:,.0f} "
            f"unweighted ones) the candidate would earn {estimate.value.mean:.4f} a row against {estimate.logged.mean:.4f} "
            f"earned (difference {describe(estimate.difference)}"
        )
        doubts = " ".join(estimate.notes)
        if estimate.difference.below_zero and doubts:
            yield _Finding(True, f"{sentence}); not counted. {doubts}")
        elif estimate.difference.below_zero:
            yield _Finding(False, f"{sentence}); the interval must not lie below zero.")
        else:
            yield _Finding(True, f"{sentence}){'; the candidate earns more.' if estimate.difference.above_zero else '.'}"
                                 f"{f' {doubts}' if doubts else ''}")  # fmt: skip
