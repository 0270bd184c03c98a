"""Reading and writing records, atomic files, and manifests."""

import errno
import fcntl
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.existing_outputs import find_up_to_date
from gpt3mix_cli.files import (
    append,
    atomic_write,
    exclusive_writer,
    hash_file,
)
from gpt3mix_cli.jsonl import read_lines, read_objects
from gpt3mix_cli.records import (
    Augmented,
    Example,
    Manifest,
    Record,
    Reject,
    Trial,
    finish_output,
    hash_rows,
    manifest_path,
    read_manifest,
    read_records,
    to_json_line,
    write_manifest,
    write_records,
)
from gpt3mix_cli.user_cache import hash_model

CLASSES = ["pos", "neg"]
GOOD = '{"id": "a", "text": "fine", "label": "pos"}'
some = settings(max_examples=60, deadline=None, database=None, derandomize=True)

words = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
texts = words.filter(str.strip)
distributions = st.floats(0, 1).map(lambda p: {"pos": p, "neg": 1 - p})
examples = st.builds(Example, id=words, text=texts, label=st.sampled_from(CLASSES))
augmented = st.builds(
    Augmented,
    id=words,
    text=texts,
    label=st.sampled_from(CLASSES),
    probs=distributions,
    parents=st.lists(words, max_size=3),
    request=st.none() | st.integers(),
).map(
    lambda row: row.model_copy(update={"label": max(row.probs, key=lambda name: row.probs[name])})
)
rejects = st.builds(
    Reject,
    request=st.integers(),
    method=words,
    parents=st.lists(words, max_size=2),
    text=words,
    reason=words,
)
trials = st.builds(
    Trial,
    variant=st.dictionaries(words, values, max_size=2),
    status=st.sampled_from(["ok", "failed"]),
    accuracy=st.none() | st.floats(0, 1),
    confusion=st.none() | st.just([[3, 1], [0, 4]]),
)


def message(path: Path, content: str | bytes, kind: type[Record] = Example) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as error:
        list(read_records(path, kind, CLASSES))
    assert error.value.exit_code == 2
    assert error.value.hint
    return error.value.message


# Reading ------------------------------------------------------------------------------------------


@some
@given(
    st.lists(examples, max_size=4)
    | st.lists(augmented, max_size=4)
    | st.lists(rejects, max_size=4)
    | st.lists(trials, max_size=4),
    st.data(),
)
def test_every_kind_of_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Record], data: st.DataObject
) -> None:
    """Unknown keys of any name are kept, and writing again gives the same bytes."""
    kind = type(rows[0]) if rows else Example
    known = set(kind.model_fields)
    extra = st.dictionaries(
        (words | st.sampled_from(["model_config", "copy", "__dict__", "self", "kind"])).filter(
            lambda key: key not in known
        ),
        values,
        max_size=3,
    )
    rows = [kind.model_validate({**row.model_dump(), **data.draw(extra)}) for row in rows]
    path = tmp_path_factory.mktemp("records") / "rows.jsonl"
    assert write_records(path, rows) == len(rows)
    back = list(read_records(path, kind, CLASSES))
    assert back == rows
    assert [row.model_dump() for row in back] == [row.model_dump() for row in rows]
    first = path.read_bytes()
    write_records(path, back)
    assert path.read_bytes() == first


def test_a_label_that_is_not_the_argmax_is_refused_and_a_tie_is_not(tmp_path: Path) -> None:
    row = '{"id": "a", "text": "fine", "label": "pos", "probs": {"pos": %s, "neg": %s}}\n'
    assert "is not the most probable class" in message(
        tmp_path / "rows.jsonl", row % (0.4, 0.6), Augmented
    )
    (tmp_path / "rows.jsonl").write_text(row % (0.5, 0.5))
    assert [row.label for row in read_records(tmp_path / "rows.jsonl", Augmented, CLASSES)] == [
        "pos"
    ]


def test_keys_have_the_order_of_the_fields_with_unknown_ones_last() -> None:
    row = Augmented.model_validate(
        {
            "note": 1,
            "probs": {"pos": 1, "neg": 0},
            "label": "pos",
            "a": 2,
            "text": "t",
            "id": "i",
            "request": 4,
            "parents": ["p"],
        }
    )
    expected = [
        "id",
        "text",
        "label",
        "probs",
        "method",
        "parents",
        "label_source",
        "label_mass",
        "request",
        "note",
        "a",
    ]
    assert list(json.loads(to_json_line(row))) == expected
    assert list(Reject.model_fields) == ["request", "method", "parents", "text", "reason", "detail"]
    assert " ".join(Trial.model_fields) == (
        "task level method classifier variant data_seed trial draw seed status error n_train "
        "n_synthetic n_test accuracy macro_f1 mcc majority "
        "ece valid_accuracy best_epoch epochs seconds predicted_classes confusion train_sha "
        "test_sha tokens usd settings version "
        "tokens_per_prediction "
        "synthetic_weight n_test_all"
    )


def test_a_line_is_plain_utf8_without_nan() -> None:
    row = Example(id="1", text='ü 😀 "\n', label="pos")
    assert to_json_line(row) == '{"id": "1", "text": "ü 😀 \\"\\n", "label": "pos"}\n'
    with pytest.raises(ValueError, match="JSON"):
        to_json_line(Augmented(id="1", text="t", label="pos", probs={"pos": math.nan}))


def test_a_perplexity_is_written_only_if_it_is_known(tmp_path: Path) -> None:
    row = Augmented(id="1", text="t", label="pos", probs={"pos": 1.0}, perplexity=12.5)
    write_records(tmp_path / "rows.jsonl", [row, row.model_copy(update={"perplexity": None})])
    known, unknown = (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()
    assert known.endswith(', "perplexity": 12.5}')
    assert known.startswith(unknown[:-1])
    assert "perplexity" not in unknown
    assert [row.perplexity for row in read_records(tmp_path / "rows.jsonl", Augmented)] == [
        12.5,
        None,
    ]


def test_rows_without_the_newer_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text(
        '{"id": "a", "text": "t", "label": "pos", "probs": {"pos": 1, "neg": 0}}\n',
        encoding="utf-8",
    )
    (row,) = read_records(path, Augmented, CLASSES)
    assert (row.method, row.parents, row.label_source, row.label_mass, row.request) == (
        "",
        [],
        "parent",
        None,
        None,
    )


def test_reading_is_a_stream(tmp_path: Path) -> None:
    """Rows before an invalid line are yielded before that line is read."""
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\nbroken\n", encoding="utf-8")
    rows = read_records(path, Example, CLASSES)
    assert next(rows) == Example(id="a", text="fine", label="pos")
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        next(rows)


def test_an_invalid_line_far_down_is_named(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    actual = message(path, f"{GOOD}\n" * 40_000 + '{"id": "b", "text": "cut')
    assert actual.startswith(f"{path}, line 40001: not valid JSON: ")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not valid JSON: "),
        ("{'id': 1}", "not valid JSON: "),
        (GOOD + ",", "not valid JSON: Extra data"),
        (GOOD + GOOD, "not valid JSON: Extra data"),
        ("[" * 100_000, "not valid JSON: "),
        ('{"id": ' + "9" * 5000 + "}", "not valid JSON: "),
        (
            '{"id": "a", "text": "t", "label": "pos", "score": NaN}',
            "not valid JSON: NaN is not a JSON number",
        ),
        (
            '{"id": "a", "text": "t", "label": "pos", "score": -Infinity}',
            "not valid JSON: -Infinity is not a JSON number",
        ),
        ("[1, 2]", "a JSON list, not an object"),
        ('"text"', "a JSON str, not an object"),
        ("null", "a JSON NoneType, not an object"),
        ("17", "a JSON int, not an object"),
        (b'{"id": "caf\xe9"}', "not UTF-8 ("),
        (b"\xff\xfe{\x00", "not UTF-8 ("),
        (GOOD.replace("fine", "\\ud83d"), "half a character (a lone surrogate escape)"),
        (GOOD.replace("fine", "\\ude00\\ud83d"), "half a character (a lone surrogate escape)"),
        (GOOD.replace('"id"', '"\\udfff"'), "half a character (a lone surrogate escape)"),
        ('{"id": "a", "text": "t"}', "'label' is missing"),
        ('{"label": "pos", "text": "t"}', "'id' is missing"),
        ('{"id": 5, "text": "t", "label": "pos"}', "'id' input should be a valid string, got 5"),
        (
            '{"id": "a", "text": null, "label": "pos"}',
            "'text' input should be a valid string, got None",
        ),
        ('{"id": "a", "text": "", "label": "pos"}', "the text is empty"),
        ('{"id": "a", "text": " \\u2028\\t", "label": "pos"}', "the text is empty"),
        (
            '{"id": "a", "text": "t", "label": "Pos"}',
            "label 'Pos' is not one of the task's classes ('pos', 'neg'); did you mean 'pos'?",
        ),
        (
            '{"id": "a", "text": "t", "label": "7"}',
            "label '7' is not one of the task's classes ('pos', 'neg')",
        ),
    ],
)
def test_an_invalid_line_is_reported_with_file_and_number(
    tmp_path: Path, line: str | bytes, problem: str
) -> None:
    path = tmp_path / "rows.jsonl"
    raw = line.encode() if isinstance(line, str) else line
    actual = message(path, f"{GOOD}\n\n".encode() + raw + f"\n{GOOD}\n".encode())
    assert actual.startswith(f"{path}, line 3: {problem}")
    if not problem.endswith((" ", "(", "data")):
        assert actual == f"{path}, line 3: {problem}"


@pytest.mark.parametrize(
    ("probs", "problem"),
    [
        (
            '{"pos": 0.5, "neg": 0.4, "mixed": 0.1}',
            "probs: label 'mixed' is not one of the task's classes ('pos', 'neg')",
        ),
        (
            '{"pos": 0.5, "nge": 0.5}',
            "probs: label 'nge' is not one of the task's classes ('pos', 'neg'); "
            "did you mean 'neg'?",
        ),
        ('{"neg": 1}', "probs: class 'pos' is missing"),
        ("{}", "probs: class 'pos' is missing"),
        (
            '{"pos": 0.7, "neg": 0.7}',
            "probs: {'pos': 0.7, 'neg': 0.7} is not a distribution (sum 1.4)",
        ),
        (
            '{"pos": 0.2, "neg": 0.2}',
            "probs: {'pos': 0.2, 'neg': 0.2} is not a distribution (sum 0.4)",
        ),
        ('{"pos": 0, "neg": 0}', "probs: {'pos': 0.0, 'neg': 0.0} is not a distribution (sum 0)"),
        (
            '{"pos": 1.5, "neg": -0.5}',
            "probs: {'pos': 1.5, 'neg': -0.5} is not a distribution (sum 1)",
        ),
        ('{"pos": 1e999, "neg": 0}', "not valid JSON: 1e999 is not a JSON number"),
        ('{"pos": 0.5, "neg": null}', "'probs.neg' input should be a valid number, got None"),
        (
            '{"pos": "high", "neg": 0}',
            "'probs.pos' input should be a valid number, unable to parse string as a number, "
            "got 'high'",
        ),
        ("[1, 0]", "'probs' input should be a valid dictionary, got [1, 0]"),
    ],
)
def test_probs_must_be_a_distribution_over_the_classes(
    tmp_path: Path, probs: str, problem: str
) -> None:
    path = tmp_path / "rows.jsonl"
    assert (
        message(path, f'{{"id": "a", "text": "t", "label": "pos", "probs": {probs}}}\n', Augmented)
        == f"{path}, line 1: {problem}"
    )


def test_rounded_probs_are_accepted_and_an_unknown_label_source_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"id": "a", "text": "t", "label": "pos", "probs": {"pos": 0.6667, "neg": 0.3334}}\n',
        encoding="utf-8",
    )
    assert len(list(read_records(path, Augmented, CLASSES))) == 1
    actual = message(
        path,
        '{"id": "a", "text": "t", "label": "pos", "probs": {"pos": 1, "neg": 0}, '
        '"label_source": "guess"}',
        Augmented,
    )
    assert "line 1: 'label_source'" in actual


def test_without_classes_any_label_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD.replace("pos", "whatever"), encoding="utf-8")
    assert [row.label for row in read_records(path, Example)] == ["whatever"]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_ignored(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f"\ufeff{GOOD}\r\n\r\n   \n{GOOD}".encode())
    assert [row.text for row in read_records(path, Example, CLASSES)] == ["fine", "fine"]
    assert [number for number, _ in read_objects(path)] == [1, 4]
    assert [number for number, _ in read_lines(path, blank=True)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "inside",
    ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u00a0", "\ufeff", "\x00", "😀", "\r"],
)
def test_only_a_newline_ends_a_line(tmp_path: Path, inside: str) -> None:
    """`str.splitlines` would split a record at these."""
    path = tmp_path / "rows.jsonl"
    rows = [
        Example(id=inside, text=f"one{inside}two", label="pos"),
        Example(id="b", text=f"{inside}x", label="neg"),
    ]
    write_records(path, rows)
    assert path.read_bytes().count(b"\n") == 2
    assert list(read_records(path, Example, CLASSES)) == rows


def test_a_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD.replace("fine", "\\ud83d\\ude00"), encoding="utf-8")
    assert [row.text for row in read_records(path, Example)] == ["😀"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UserError) as error:
            list(read_records(path, Example))
        assert error.value.message.startswith(f"{path}: cannot be read: ")


def test_minus_is_stdin_and_stdout(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from gpt3mix_cli.records import Example, read_records, write_records\n"
        "n = write_records(Path('-'), read_records(Path('-'), Example))\n"
        "print(n, file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=f"{GOOD}\n\n{GOOD}\n".encode(),
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    assert result.stdout.decode() == f"{GOOD}\n{GOOD}\n"
    assert result.stderr.decode() == "2\n"
    assert list(tmp_path.iterdir()) == []


def test_rows_that_were_read_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD.replace("}", ', "score": 1e999}'), encoding="utf-8")
    try:
        rows = list(read_records(path, Example))
    except UserError:
        return
    write_records(tmp_path / "copy.jsonl", rows)


# Writing ------------------------------------------------------------------------------------------


def test_folders_are_created_and_no_other_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "rows.jsonl"
    write_records(path, [])
    assert [item.name for item in path.parent.iterdir()] == ["rows.jsonl"]
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), KeyboardInterrupt(), UserError("stop"), SystemExit(3)]
)
@pytest.mark.parametrize("older", [None, b"older\n"])
def test_a_block_that_fails_leaves_the_output_unchanged(
    tmp_path: Path, error: BaseException, older: bytes | None
) -> None:
    path = tmp_path / "out.jsonl"
    if older:
        path.write_bytes(older)

    def half() -> None:
        with atomic_write(path) as stream:
            stream.write(b"half\n")
            stream.flush()
            assert (path.read_bytes() if path.exists() else None) == older
            raise error

    with pytest.raises(type(error)):
        half()
    assert [item.name for item in tmp_path.iterdir()] == (["out.jsonl"] if older else [])
    assert (path.read_bytes() if path.exists() else None) == older


def test_a_row_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> object:
        yield Example(id="a", text="t", label="pos")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        write_records(tmp_path / "out.jsonl", rows())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_partial_file_of_a_killed_run_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    side = tmp_path / ".out.jsonl.partial"
    with atomic_write(path) as stream:
        assert side.exists()
        stream.write(b"x")
    side.write_bytes(b"a long rest of a run that was killed\n")
    write_records(path, [Example(id="a", text="t", label="pos")])
    assert path.read_bytes() == b'{"id": "a", "text": "t", "label": "pos"}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_with_the_name_of_the_partial_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / ".out.jsonl.partial").symlink_to("thesis.txt")
    write_records(tmp_path / "out.jsonl", [])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / "out.jsonl").is_symlink()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o277])
def test_a_manifest_is_private(tmp_path: Path, umask: int) -> None:
    output = tmp_path / "out.jsonl"
    before = os.umask(umask)
    try:
        write_records(output, [])
        finish_output(
            output, 0.0, stage="x", complete=True, settings={}, inputs={}, seed=1, counts={}
        )
    finally:
        os.umask(before)
    assert output.stat().st_mode & 0o777 == 0o666 & ~umask
    assert manifest_path(output).stat().st_mode & 0o777 == 0o600 & ~umask


def test_an_endless_line_is_refused_at_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt3mix_cli.jsonl.MAX_LINE_BYTES", 1_000)
    with pytest.raises(UserError, match="/dev/zero, line 1: longer than 1,000 bytes"):
        list(read_records(Path("/dev/zero"), Example))


def test_a_second_writer_of_an_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with atomic_write(path) as stream:
        stream.write(b"first\n")
        with (
            pytest.raises(UserError, match=r"out\.jsonl: another process is writing it"),
            atomic_write(path),
        ):
            pytest.fail("both had it")
        with atomic_write(tmp_path / "other.jsonl") as other:
            other.write(b"other\n")
    assert path.read_bytes() == b"first\n"
    write_records(path, [])
    assert path.read_bytes() == b""


def test_another_process_that_writes_an_output_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    side = tmp_path / ".out.jsonl.partial"
    with atomic_write(path):
        script = (
            "import sys\nfrom pathlib import Path\n"
            "from gpt3mix_cli.records import write_records\n"
            "from gpt3mix_cli.errors import UserError\n"
            "try:\n    write_records(Path(sys.argv[1]), [])\n"
            "except UserError as error:\n    print(error.message)\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        )
        assert result.stdout == f"{path}: another process is writing it\n"
        assert side.exists()
    with (tmp_path / ".out.jsonl.partial.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            write_records(path, [])


@pytest.mark.parametrize(
    "place", ["file/out.jsonl", "file/deeper/out.jsonl", "folder", f"{'n' * 300}.jsonl"]
)
def test_a_path_that_cannot_be_written_is_a_message(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        write_records(tmp_path / place, [])
    assert error.value.message.startswith(
        (f"{tmp_path / place}: cannot be written: ", f"{tmp_path / place}: is not a plain file")
    )
    assert "-o" in error.value.hint
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_a_message_with_its_own_hint() -> None:
    with pytest.raises(UserError, match="/dev/full: cannot be written: No space left") as error:
        append(Path("/dev/full"), "line\n")
    assert error.value.hint == "free some space and run the same command again"


def test_an_error_that_the_block_raises_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError), atomic_write(tmp_path / "out.jsonl"):
        raise TimeoutError("the endpoint does not answer")


def test_a_writer_that_starts_as_another_ends_keeps_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order: the second opens the lock file, the first deletes it, the second locks it."""
    path = tmp_path / "out.jsonl"
    first = atomic_write(path)
    first.__enter__().write(b"first\n")
    real = fcntl.flock

    def flock(stream: object, flags: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        first.__exit__(None, None, None)
        real(stream, flags)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", flock)
    try:
        with atomic_write(path) as second:
            second.flush()
            assert path.read_bytes() == b"first\n"
            second.write(b"second\n")
    except UserError:
        assert path.read_bytes() == b"first\n"
    else:
        assert path.read_bytes() == b"second\n"


def test_the_lock_file_of_a_dead_process_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    (tmp_path / ".out.jsonl.partial.lock").touch()
    (tmp_path / ".out.jsonl.lock").touch()
    with exclusive_writer(path):
        write_records(path, [])
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_with_the_file_that_was_written(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with (
            pytest.raises(UserError, match=r"rows\.jsonl: cannot be written: File too large"),
            atomic_write(tmp_path / "rows.jsonl") as stream,
        ):
            stream.write(b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_link_in_the_place_of_a_partial_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / ".rows.jsonl.partial").symlink_to(tmp_path / "mine.txt")
    with atomic_write(tmp_path / "rows.jsonl") as stream:
        stream.write(b"rows")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert (tmp_path / "rows.jsonl").read_text() == "rows"
    assert not (tmp_path / "rows.jsonl").is_symlink()


def test_a_file_system_without_locks_is_written_without_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(stream: object, flags: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    write_records(tmp_path / "out.jsonl", [])
    assert list(tmp_path.iterdir()) == [tmp_path / "out.jsonl"]


def test_a_disk_that_cannot_be_written_needs_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that are up to date there are found to be so."""

    def acquire(lock: FileLock, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    with pytest.raises(UserError, match="Read-only"), exclusive_writer(tmp_path / "out.jsonl"):
        pass
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with exclusive_writer(tmp_path / "out.jsonl"):
        pass


def test_appended_lines_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "trials.jsonl"
    append(path, "one ü\n")
    append(path, "two\nthree\n")
    assert path.read_bytes() == "one ü\ntwo\nthree\n".encode()
    with pytest.raises(UserError, match="cannot be written"):
        append(path.parent, "x\n")


# Hashes and manifests -----------------------------------------------------------------------------


@some
@given(st.lists(examples, max_size=4), examples)
def test_a_hash_of_rows_depends_only_on_ids_texts_labels_and_order(
    rows: list[Example], extra: Example
) -> None:
    sha = hash_rows(rows)
    assert sha == hash_rows(
        Augmented(**row.model_dump(), probs={"pos": 1}, method="x") for row in rows
    )
    assert sha != hash_rows([*rows, extra])
    for change in (
        {"id": extra.id + "'"},
        {"text": extra.text + "'"},
        {"label": extra.label + "'"},
    ):
        assert hash_rows([extra]) != hash_rows([extra.model_copy(update=change)])
    if rows != rows[::-1]:
        assert sha != hash_rows(reversed(rows))


def test_a_hash_of_rows_depends_on_where_a_text_ends() -> None:
    split = [
        Example(id="a", text="b c", label="d"),
        Example(id="a b", text="c", label="d"),
        Example(id="a", text='b", "c', label="d"),
    ]
    assert len({hash_rows([row]) for row in split}) == 3


def test_a_models_hash_depends_only_on_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = hash_model(tmp_path)
    (tmp_path / "README.md").write_text("notes", encoding="utf-8")
    assert hash_model(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"weightz")
    assert hash_model(tmp_path) != before
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"weights")
    assert hash_model(tmp_path) != before


SETTINGS = {"level": "1%", "classes": ("pos", "neg"), "k": 2, "share": 0.1, "none": None}
INPUTS = {"train": "abc", "model": "def"}


def stored(path: Path, **changes: object) -> Manifest:
    write_records(path, [Example(id="a", text="t", label="pos")])
    content = {
        "stage": "subsample", "output": path.name, "sha256": hash_file(path), "complete": True,
        "settings": SETTINGS, "inputs": INPUTS, "seed": 0, "counts": {"rows": 1, "pos": 1},
        "tokens": 12, "usd": 0.5, "seconds": 1.25,
        "command": ["gpt3mix", "subsample", "ü.yaml"],
    }  # fmt: skip
    manifest = Manifest.model_validate({**content, **changes})
    write_manifest(path, manifest)
    return manifest


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    manifest = stored(path)
    assert manifest_path(path) == tmp_path / "train.jsonl.manifest.json"
    back = read_manifest(path)
    assert back is not None
    assert back.model_dump(exclude={"settings"}) == manifest.model_dump(exclude={"settings"})
    assert back.settings == {**SETTINGS, "classes": ["pos", "neg"]}
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        "train.jsonl",
        "train.jsonl.manifest.json",
    ]


def test_an_output_is_up_to_date_with_its_own_settings_and_inputs(tmp_path: Path) -> None:
    """The order of keys, and tuples instead of lists, change nothing."""
    path = tmp_path / "train.jsonl"
    stored(path)
    assert find_up_to_date(path, SETTINGS, INPUTS) == read_manifest(path)
    assert (
        find_up_to_date(path, dict(reversed(SETTINGS.items())), dict(reversed(INPUTS.items())))
        is not None
    )
    stored(path, seed=None)
    assert find_up_to_date(path, SETTINGS, INPUTS) is not None


@pytest.mark.parametrize(
    ("settings", "inputs"),
    [
        ({**SETTINGS, "k": 3}, INPUTS),
        ({**SETTINGS, "new": None}, INPUTS),
        ({key: value for key, value in SETTINGS.items() if key != "none"}, INPUTS),
        ({**SETTINGS, "classes": ["neg", "pos"]}, INPUTS),
        (SETTINGS, {**INPUTS, "train": "abd"}),
        (SETTINGS, {"train": "abc"}),
        (SETTINGS, {**INPUTS, "validation": "x"}),
        ({}, {}),
    ],
)
def test_other_settings_or_inputs_make_an_output_stale(
    tmp_path: Path, settings: dict, inputs: dict
) -> None:
    stored(tmp_path / "train.jsonl")
    assert find_up_to_date(tmp_path / "train.jsonl", settings, inputs) is None


def test_an_output_that_was_edited_cut_or_removed_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    stored(path)
    whole = path.read_bytes()
    for content in (whole + b"\n", whole[:-1], whole.replace(b"t", b"u", 1), b""):
        path.write_bytes(content)
        assert find_up_to_date(path, SETTINGS, INPUTS) is None
    path.write_bytes(whole)
    assert find_up_to_date(path, SETTINGS, INPUTS) is not None
    path.unlink()
    assert find_up_to_date(path, SETTINGS, INPUTS) is None


def test_an_incomplete_output_is_stale(tmp_path: Path) -> None:
    stored(tmp_path / "train.jsonl", complete=False)
    assert find_up_to_date(tmp_path / "train.jsonl", SETTINGS, INPUTS) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", None])
def test_a_manifest_that_cannot_be_read_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "train.jsonl"
    stored(path)
    manifest_path(path).unlink()
    if content is not None:
        manifest_path(path).write_bytes(content)
    assert read_manifest(path) is None
    assert find_up_to_date(path, SETTINGS, INPUTS) is None


def test_stdout_has_no_manifest(tmp_path: Path) -> None:
    write_manifest(Path("-"), stored(tmp_path / "a.jsonl"))
    assert not list(tmp_path.glob("-*"))
    assert find_up_to_date(Path("-"), SETTINGS, INPUTS) is None
