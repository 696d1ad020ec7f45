"""Which columns are drawn, in which order, and that unknown numbers leave a gap."""

from __future__ import annotations

from datetime import date
from typing import Any

from endcap.monitoring import drift_plots


def row(feature: str, day: int, value: float | None, statistic: str = "js", count: int = 100) -> dict[str, Any]:
    return {
        "event_date": date(2020, 1, day), "feature": feature, "statistic": statistic, "value": value, "count": count
    }  # fmt: skip


def test_the_worst_columns_come_first_and_few_rows_do_not_decide() -> None:
    rows = [row(f"view.c{n}", 1, n / 10) for n in range(8)]
    rows += [row("refund.price", 1, 0.99, count=3), row("refund.price", 2, 0.05)]
    rows += [row("purchase.a", 1, None)]
    [js] = drift_plots.columns_by_day(rows)
    assert [plot.title for plot in js.plots] == [f"view.c{n}" for n in (7, 6, 5, 4, 3, 2)]
    assert (js.title, js.num_left_out) == ("Jensen–Shannon by day", 3)
    assert js.plots[0].description == "Jensen–Shannon by day, view.c7: last 0.7, highest 0.7."


def test_only_nulls_that_changed_and_unseen_values_that_are_there_are_drawn() -> None:
    rows = [row("view.a", day, 1.0, "null_rate") for day in (1, 2)]
    rows += [row("view.b", 1, 0.1, "null_rate"), row("view.b", 2, 0.3, "null_rate"), row("view.c", 1, 0.0, "null_rate")]
    rows += [row("view.d", 1, 0.9, "null_rate"), row("view.d", 2, 0.2, "null_rate")]
    rows += [row("view.a", 1, 0.0, "unseen_rate"), row("view.b", 1, 0.5, "unseen_rate")]
    nulls, unseen = drift_plots.columns_by_day(rows)
    assert [plot.title for plot in nulls.plots] == ["view.d", "view.b"]
    assert [plot.title for plot in unseen.plots] == ["view.b"]


def test_hours_show_rows_and_lag_in_a_fitting_unit() -> None:
    def hour(number: int, statistic: str, value: float | None, feature: str = "all") -> dict[str, Any]:
        return {"hour": number * 3_600_000_000, "event_date": date(1970, 1, 1), "feature": feature,
                "statistic": statistic, "value": value, "count": 100}  # fmt: skip

    rows = [hour(n, "count", 10.0 * n) for n in range(3)]
    rows += [hour(n, "lag_seconds_p50", 7200.0 * (n + 1)) for n in range(3)]
    rows += [hour(n, "lag_seconds_p95", None) for n in range(3)]
    counted, lag = drift_plots.by_hour(rows)
    assert counted.description == "Rows per hour. rows: last 20, highest 20."
    assert lag.description == "Lag from event to table, by hour of the event. median: last 6, highest 6."
    assert ">hours<" in lag.svg
    assert drift_plots.lag_names(rows) == ("median",)
    assert drift_plots.columns_by_hour(rows) is None
    found = drift_plots.columns_by_hour([hour(n, "psi", n / 10, f"view.c{n}") for n in range(5)])
    assert found is not None
    assert [plot.title for plot in found.plots] == ["view.c4", "view.c3", "view.c2"]
    assert (drift_plots.by_hour([]), drift_plots.columns_by_day([]), drift_plots.psi_by_day([])) == ((), (), None)
