"""Rows and tables: our rows as DataFrames and Arrow tables, and other people's tables and files as rows."""

from timbr_wamp.rows.messages import is_table, messages_of
from timbr_wamp.rows.reading import RowSource, has_rows, has_table_suffix, row_source
from timbr_wamp.rows.tabular import JSON_FIELD, ColumnType, Grid, Tabular

__all__ = [
    "JSON_FIELD",
    "ColumnType",
    "Grid",
    "RowSource",
    "Tabular",
    "has_rows",
    "has_table_suffix",
    "is_table",
    "messages_of",
    "row_source",
]
