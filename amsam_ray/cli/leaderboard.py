"""``amsam-ray leaderboard``: the ranking of methods, computed from the records in a storage."""

from __future__ import annotations

import click

from amsam_ray.cli.lookup import STORAGE, open_index
from amsam_ray.errors import InputError, Problem


@click.command()
@STORAGE
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this dataset; may be repeated.")
@click.option("--shots", multiple=True, type=click.IntRange(min=1), help="Only this many shots; may be repeated.")
@click.option("--paper/--no-paper", "published", default=True, help="Include the papers' rows.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "md", "json"]), default="table", show_default=True)
def leaderboard(storage: str, datasets: tuple[str, ...], shots: tuple[int, ...], published: bool, form: str) -> None:
    """Print leaderboards, computed from the current records.

    Rows are sorted by each dataset's primary metric, best first. p(next) is the p-value of the lead over the next row
    (one Wilcoxon signed-rank test over the test images).
    """
    from amsam_ray.records.leaderboard import build_leaderboard

    with open_index(storage) as (_, index):
        rows = build_leaderboard(
            index.cells(),
            datasets=datasets or None,
            shots=shots or None,
            published=published,
            remember=index.remember,
        )
    if not rows:
        wish = f" of {', '.join(datasets)}" if datasets else ""
        wish += f" with {' or '.join(map(str, shots))} shots" if shots else ""
        remedy = "run `amsam-ray leaderboard` without filters for what it holds" if wish else "give that of a sweep"
        raise InputError(Problem(storage, f"holds no records{wish}; {remedy}"))
    print_rows(rows, form)


def print_rows(rows: list[dict[str, object]], form: str) -> None:
    """Print leaderboard rows as ``table``, ``csv``, ``md`` or ``json``."""
    from amsam_ray.records import tables

    if form == "csv":
        click.echo(tables.to_csv(rows).decode(), nl=False)
    elif form == "md":
        click.echo(tables.to_markdown(rows))
    elif form == "json":
        click.echo(tables.to_json(rows))
    else:
        from rich.console import Console

        # Without a terminal, rich would fold the table to 80 columns.
        console = Console()
        console = console if console.is_terminal else Console(width=200)
        console.print(tables.to_terminal(rows))
