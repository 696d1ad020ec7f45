"""A FeatureConfig and a workspace, or files of rows, in; what each column becomes out, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from endcap.contracts.errors import InputError
from endcap.contracts.features import Column, FeatureConfig
from endcap.contracts.reporting import Reporter
from endcap.features.dataset import LABEL_COLUMNS
from endcap.features.described import FeatureCheck, describe
from endcap.features.fitted import check_columns, fit
from endcap.features.remarks import remarks_on
from endcap.flows.features import build_features
from endcap.flows.transformed import rows_to_fit
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import MARKER, Workspace

_CSV_TYPES: dict[str, pa.DataType] = {
    "STRING": pa.string(), "INT64": pa.int64(), "FLOAT64": pa.float64(), "NUMERIC": pa.float64(), "BOOL": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"), "DATETIME": pa.timestamp("us"), "DATE": pa.date32(),
}  # fmt: skip


def check_features(config: FeatureConfig, source: str, data: Sequence[Path], report: Reporter) -> FeatureCheck:
    """Fit the transforms on the data, and describe what each column becomes.

    Args:
        config: What to fit.
        source: Where `config` comes from, for whoever reads the result.
        data: A workspace, whose train period is what is fitted on; or a Parquet or CSV file with the columns of both
            sides, products being the last row of each id; or two files, buyer rows and product rows.
        report: Hears of the building of feature tables.

    Raises InputError when the data can't be read, ColumnsError when it isn't what the FeatureConfig says.
    """
    later: pa.Table | None = None
    if len(data) == 1 and (data[0] / MARKER).is_file():
        buyers, products, later = _of_workspace(Workspace.open(data[0]), config, report)
    elif len(data) == 1:
        buyers = _read(data[0], config.buyer | config.product)
        check_columns(config, buyers.schema, buyers.schema)
        last = dict(zip(buyers[config.item_id].to_pylist(), range(buyers.num_rows), strict=True))
        products = buyers.take(pa.array(sorted(last.values()), pa.int64()))
    elif len(data) == 2:
        buyers, products = _read(data[0], config.buyer), _read(data[1], config.product)
    else:
        raise InputError(f"--data takes a workspace, one file, or two (buyer rows, product rows); found {len(data)}.")
    for side, table in (("buyer", buyers), ("product", products)):
        if table.num_rows == 0:
            raise InputError(f"There are no {side} rows to fit on in {', '.join(map(str, data))}.")
    fitted = fit(config, ibis.memtable(buyers), ibis.memtable(products))
    return FeatureCheck(
        config=source,
        data=", ".join(map(str, data)),
        num_buyers=buyers.num_rows,
        num_products=products.num_rows,
        num_later=later.num_rows if later is not None else 0,
        columns=describe(fitted, buyers, products, later),
        remarks=remarks_on(fitted, buyers, products),
    )


def _of_workspace(workspace: Workspace, config: FeatureConfig, report: Reporter) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Questions of the train period, the products that were sold by its end, questions of the eval period."""
    configuration = load_configuration([], workspace.path / "conf").model_copy(update={"features": config})
    tables = build_features(workspace, configuration, report)
    baskets = tables.table("baskets")
    train = baskets.filter(pc.equal(baskets["period"], "train"))
    buyers, products = rows_to_fit(tables, train, tables.split.eval_start_us)
    later = tables.table("eval")
    return buyers, products, later.drop_columns([name for name in LABEL_COLUMNS if name in later.column_names])


def _read(path: Path, columns: dict[str, Column]) -> pa.Table:
    """A file's rows, dictionaries as their values."""
    if not path.is_file():
        what = "a folder without a workspace" if path.is_dir() else "nothing"
        raise InputError(f"{path} is {what}; expected a workspace (endcap init makes one), a Parquet or a CSV file.")
    try:
        if path.suffix == ".csv":
            types = {name: _CSV_TYPES[column.type] for name, column in columns.items() if column.type in _CSV_TYPES}
            options = pa_csv.ConvertOptions(column_types=types, strings_can_be_null=True)
            table = pa_csv.read_csv(path, convert_options=options)
        else:
            table = pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        expected = "CSV with the types of the FeatureConfig" if path.suffix == ".csv" else "Parquet"
        raise InputError(f"{path} can't be read: {error}. Expected {expected}.") from error
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table[field.name].cast(field.type.value_type))
    return table
