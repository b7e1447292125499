"""Format Markdown tables."""

from collections.abc import Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table.

    Args:
        columns: Column titles.
        rows: Cells of each row, formatted with `str`; as many as there are columns.

    Returns:
        The lines of the table, without a newline at the end.
    """
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)
