"""Every message fits a screen, whatever the user's files hold."""

from gpt3mix_cli.errors import MAX_LINE_CHARS, MAX_LINES, UserError, shown_list, shown_value


def test_a_long_line_keeps_its_ends() -> None:
    error = UserError(f"x.csv: {'word ' * 10_000}is wrong", "a" * 100_000)
    assert error.message.startswith("x.csv: word")
    assert error.message.endswith("word is wrong")
    assert max(len(error.message), len(error.hint)) < MAX_LINE_CHARS + 10


def test_many_lines_are_counted() -> None:
    lines = UserError("\n".join(map(str, range(1_000)))).message.splitlines()
    assert len(lines) == MAX_LINES + 1
    assert lines[-1] == f"  and {1_000 - MAX_LINES:,} more lines"


def test_a_terminal_does_not_obey_a_message() -> None:
    message = "x.jsonl: label '\x1b[2J\x9b\r' is wrong\n\tthe next line"
    assert UserError(message).message == (
        "x.jsonl: label '\\x1b[2J\\x9b\\r' is wrong\n\tthe next line"
    )


def test_values_and_lists_are_cut() -> None:
    assert shown_value("film") == "'film'"
    assert len(shown_value({"key": "x" * 1_000})) < 110
    assert shown_list(["a", "b"]) == "a, b"
    assert shown_list(range(1_000)).endswith("18, 19, and 980 more")
