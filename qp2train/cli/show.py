"""What the command line prints, and how."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

console = Console()


def say(line: str) -> None:
    """A line as it is: names and paths may hold what rich takes for markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar fed with (name, done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(name: str, done: int, total: int) -> None:
            bar.update(task, description=escape(name), completed=done, total=total)

        yield update


def print_counts(counts: pd.DataFrame, title: str) -> None:
    console.print(title, highlight=False, soft_wrap=True)
    table = Table("class", *(Column(escape(str(split)), justify="right") for split in counts.columns))
    for name, row in counts.iterrows():
        table.add_row(escape(str(name)), *(str(v) for v in row))
    console.print(table)


def print_frame(frame: pd.DataFrame, title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in frame.columns:
        table.add_column(escape(str(column)), justify="right")
    for name, row in frame.iterrows():
        table.add_row(escape(str(name)), *("–" if v != v else f"{v:.3f}" for v in row))
    console.print(table)


def in_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
