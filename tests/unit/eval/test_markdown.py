"""Markdown tables."""

from eval.markdown import markdown_table


def test_markdown_table_has_header_rule_and_rows():
    assert markdown_table(["a", "b"], [(1, "x"), ("y", 2.5)]) == "| a | b |\n|---|---|\n| 1 | x |\n| y | 2.5 |"


def test_markdown_table_without_rows_is_a_header():
    assert markdown_table(["a"], []) == "| a |\n|---|"
