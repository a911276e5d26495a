"""Tables: with rich for a person at a terminal, plain columns otherwise. Plain is good by itself, and rich is not imported for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from fissile.cli._output import Output


def show_table(output: Output, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write rows to stdout.

    Args:
        output: Writes.
        rows: Values by column.
        columns: The columns to show, in order; their names are the headings.
    """
    texts = [[_text(row.get(column)) for column in columns] for row in rows]
    if output.is_terminal:
        _show_rich(output, texts, columns)
        return
    headings = [column.upper().replace("_", " ") for column in columns]
    widths = [max(len(line[index]) for line in (headings, *texts)) for index in range(len(columns))]
    for line in (headings, *texts):
        output.data("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _show_rich(output: Output, texts: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for line in texts:
        table.add_row(*(Text(text) for text in line))
    Console(no_color=not output.color_out, highlight=False).print(table)


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(str(each) for each in cast("Sequence[object]", value)) or "-"
    return str(value)
