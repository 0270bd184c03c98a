"""report.html is one file that shows texts as they are; plots exist if there is data for them."""

import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from experiment import HOSTILE, experiment
from hypothesis import given
from hypothesis import strategies as st
from rows import inputs, seeds, trial

import gpt3mix_cli
from gpt3mix_cli.errors import NO_CALLBACKS, Callbacks, UserError
from gpt3mix_cli.records import Trial, write_records
from gpt3mix_cli.report import Report, ReportOptions, parse_row_limit, report
from gpt3mix_cli.report.artifacts import load_artifacts
from gpt3mix_cli.report.build import build_report
from gpt3mix_cli.report.charts import series_styles
from gpt3mix_cli.report.render.page import HARMFUL, embed, escape, visible

VENDOR = Path(gpt3mix_cli.__file__).parent / "resources" / "report" / "vendor"
MOST = 6 * 2**20  # bytes of a page before its data


class Parsed(HTMLParser):
    """The tags of a page with their attributes, its texts, and the content of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.inside[-1:] == ["script"]:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.inside[-1:] != ["style"]:
            self.texts.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = experiment(tmp_path_factory.mktemp("run"), levels=("0.1%", "1%"))
    output = folder / "report"
    return report(inputs(folder, name=f"t {HOSTILE}"), output), output


@pytest.fixture(scope="module")
def page(written: tuple[Report, Path]) -> str:
    return (written[1] / "report.html").read_text("utf-8")


# Escaping -------------------------------------------------------------------------------------


def test_texts_are_shown_and_never_become_tags_or_scripts(page: str) -> None:
    parsed = Parsed(page)
    allowed = {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "button", "nav", "a",
        "main", "section", "h2", "h3", "p", "div", "table",
        "thead", "tbody", "tr", "th", "td", "blockquote", "ul", "li", "span", "em", "footer",
        "script", "details", "summary", "pre",
    }  # fmt: skip
    assert {tag for tag, _ in parsed.tags} <= allowed
    assert not [
        name for _, attributes in parsed.tags for name in attributes if name.startswith("on")
    ]
    assert len(parsed.scripts) == 9  # the data, three libraries and five of ours
    # The whole text is there, its control characters as pictures.
    assert visible(HOSTILE) in "".join(parsed.texts)
    assert not HARMFUL.search(page.split('id="data">')[1].split("</script>")[0])


def test_data_in_a_script_are_unchanged(page: str) -> None:
    data = json.loads(
        next(text for attributes, text in Parsed(page).scripts if attributes.get("id") == "data")
    )
    texts = [row[1] for row in data["rows"]["kept"]]
    assert f"gpt3mix film 0 of seed 0 {visible(HOSTILE)}" in texts
    assert [f"of t0 {visible(HOSTILE)}", "60 tokens"] == [
        row[4] for row in data["rows"]["rejected"]
    ][:2]
    assert data["rows"]["rejected"][0][2] == [0, "gone"]  # a parent that was not kept has its id
    assert data["rows"]["real"][0] == [f"a real film, number 0 {visible(HOSTILE)}", "pos"]


JSON = st.recursive(
    st.text() | st.integers() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON | st.sampled_from(["\\u001b", "\\\\\r", "<!--<script>", "\u2028\\", "\x00\\n\n\t"]))
def test_embedded_json_is_equivalent_and_cannot_end_the_script(value: Any) -> None:
    text = embed(value)
    assert not set("<>&") & set(text)
    assert not HARMFUL.search(text)

    def shown(inner: Any) -> Any:
        if isinstance(inner, str):
            return visible(inner)
        if isinstance(inner, dict):
            return {visible(key): shown(value) for key, value in inner.items()}
        return [shown(value) for value in inner] if isinstance(inner, list) else inner

    assert json.loads(text) == shown(json.loads(json.dumps(value)))


@given(st.text())
def test_escaped_text_is_one_text_of_html(text: str) -> None:
    shown = escape(text)
    assert not set("<>\"'") & set(shown)
    assert html.unescape(shown) == visible(text)


def test_invisible_characters_are_shown() -> None:
    assert (
        visible("a\x1b\x7f\u202e\u2028\r\nb\tc é 中 👩\u200d🚀")
        == "a␛⟨U+007F⟩⟨U+202E⟩⟨U+2028⟩␍\nb\tc é 中 👩\u200d🚀"
    )


# One file -------------------------------------------------------------------------------------


def test_the_page_makes_no_requests(page: str) -> None:
    parsed = Parsed(page)
    places = [
        value
        for _, attributes in parsed.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert places
    assert all(value and value.startswith("#") for value in places)
    style = page.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"@import|url\((?!['\"]?data:)", style)
    assert "sourceMappingURL" not in page
    policy = next(
        attributes["content"]
        for _, attributes in parsed.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy
    assert policy.startswith("default-src 'none'")


def test_the_policy_allows_our_scripts_only(page: str) -> None:
    import base64

    allowed = set(
        re.findall(r"&#x27;sha256-([^&]+)&#x27;|'sha256-([^']+)'", page.split("<title>")[0])
    )
    known = {"".join(pair) for pair in allowed}
    scripts = [text for attributes, text in Parsed(page).scripts if "id" not in attributes]
    assert {
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts
    } == known
    assert "unsafe-inline" not in page.split("script-src")[1].split(";")[0]


def test_the_page_is_small_before_its_data(page: str) -> None:
    data = page.split('id="data">')[1].split("</script>")[0]
    assert len(page.encode()) - len(data.encode()) < MOST


def test_libraries_are_the_recorded_ones_with_their_licences() -> None:
    records = json.loads((VENDOR / "vendor.json").read_text())
    files = {name: sha for record in records for name, sha in record["files"].items()}
    assert {path.name for path in VENDOR.iterdir()} == {*files, "vendor.json"}
    for name, sha in files.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == sha, name
    for record in records:
        licence = next(name for name in record["files"] if name.endswith(".LICENSE"))
        assert "copyright notice" in (VENDOR / licence).read_text()
        assert record["licence"] in ("MIT", "ISC", "BSD-3-Clause", "Apache-2.0")


@pytest.mark.slow
def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    experiment(tmp_path / "run", rows=3)
    both = []
    for output in (tmp_path / "a", tmp_path / "b"):
        files = report(inputs(tmp_path / "run"), output).files
        both.append(
            {
                path.name: path.read_bytes()
                for path in files
                if path.suffix in (".html", ".png", ".svg")
            }
        )
    assert len(both[0]) == 15
    assert both[0] == both[1]


# Rows that are shown --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "kept", "rejected"), [(None, 48, 4), (200, 48, 4), (5, 10, 4), (1, 2, 1), (0, 0, 0)]
)
def test_rows_up_to_the_limit_are_kept_and_all_are_counted(
    tmp_path: Path, limit: int | None, kept: int, rejected: int
) -> None:
    result = load_artifacts(
        build_report(inputs(experiment(tmp_path)), tmp_path, ReportOptions(), NO_CALLBACKS).trials,
        limit,
        NO_CALLBACKS,
    )
    assert (len(result.kept), len(result.rejected), result.total) == (kept, rejected, 52)
    assert result.distributions["sst2", ""]["eda"].labels.total() == 24  # plots show all of them


def test_a_broken_file_of_rows_is_reported_and_skipped(tmp_path: Path) -> None:
    experiment(tmp_path)
    (tmp_path / "1pct" / "seed-1" / "eda.jsonl").write_text("{broken\n")
    warnings: list[str] = []
    result = report(
        inputs(tmp_path), tmp_path / "report", callbacks=Callbacks(warn=warnings.append)
    )
    assert len([row for source, row in result.artifacts.kept if source.method == "eda"]) == 12
    assert any("eda.jsonl, line 1" in line and "not shown" in line for line in warnings)


def test_synthetic_takes_a_number_or_all() -> None:
    assert [parse_row_limit(text) for text in (None, "all", "0", "1000")] == [200, None, 0, 1000]
    with pytest.raises(UserError, match="--synthetic: 'few'"):
        parse_row_limit("few")


# Plots ----------------------------------------------------------------------------------------


def test_plots_exist_if_there_is_data_for_them(written: tuple[Report, Path]) -> None:
    names = ["accuracy-level", "gain", "learning-curves", "entropy", "length", "labels", "cost"]
    assert [chart.name for chart in written[0].charts] == names
    for name in names:
        assert (written[1] / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(written[1] / f"{name}.svg").getroot().tag.endswith("svg")


def test_trials_alone_have_no_plots_of_rows(tmp_path: Path) -> None:
    write_records(tmp_path / "trials.jsonl", seeds([0.5, 0.6, 0.7]))
    result = report(inputs(tmp_path / "trials.jsonl"), tmp_path)
    assert [chart.name for chart in result.charts] == ["accuracy-level"]
    assert 'id="rows"' not in (tmp_path / "report.html").read_text("utf-8")


def test_a_report_without_a_score_has_no_plot(tmp_path: Path) -> None:
    write_records(tmp_path / "trials.jsonl", [trial(0, None)])
    result = report(inputs(tmp_path / "trials.jsonl"), tmp_path)
    assert not result.charts
    assert not list(tmp_path.glob("*.png"))


def swept(ratios: tuple[object, ...]) -> list[Trial]:
    rows = seeds([0.5, 0.52], method="none")
    for number, ratio in enumerate(ratios):
        fields = {
            "method": "gpt3mix",
            "variant": {"augment.ratio": ratio},
            "settings": f"{number:016x}",
        }
        rows += seeds([0.6 + number / 50, 0.62 + number / 50], **fields)
    return rows


def test_a_sweep_is_plotted_in_the_order_of_its_values_with_unchanged_methods(
    tmp_path: Path,
) -> None:
    write_records(tmp_path / "trials.jsonl", swept((10, 1, 3)))
    result = build_report(
        inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(), NO_CALLBACKS
    )
    chart = next(chart for chart in result.charts if chart.name == "accuracy-ratio")
    lines = {
        series: [(point.at, round(point.value)) for point in chart.points if point.series == series]
        for series in ("none", "gpt3mix")
    }
    assert lines == {
        "none": [(1.0, 51), (3.0, 51), (10.0, 51)],
        "gpt3mix": [(1.0, 63), (3.0, 65), (10.0, 61)],
    }


def test_levels_are_in_the_order_of_their_size(tmp_path: Path) -> None:
    rows = [
        row
        for level, size in (("full", 900), ("8/class", 16), ("10%", 90))
        for row in seeds([0.5, 0.6], level=level, n_train=size)
    ]
    write_records(tmp_path / "trials.jsonl", rows)
    result = build_report(
        inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(), NO_CALLBACKS
    )
    assert [point.at for point in result.charts[0].points] == [
        "8/class",
        "10%",
        "full",
    ]


def test_plotted_values_are_those_of_the_results(tmp_path: Path) -> None:
    write_records(
        tmp_path / "trials.jsonl",
        [*seeds([0.5, 0.52, 0.54]), *seeds([0.6, 0.65, 0.61], method="eda")],
    )
    result = build_report(
        inputs(tmp_path / "trials.jsonl"), tmp_path, ReportOptions(), NO_CALLBACKS
    )
    accuracy, gain = result.charts
    eda = next(row for row in result.results if row.method == "eda")
    assert eda.ci
    point = next(point for point in accuracy.points if point.series == "eda")
    assert (point.value, point.low, point.high) == pytest.approx(
        (62.0, 100 * eda.ci[0], 100 * eda.ci[1])
    )
    assert [(point.series, pytest.approx(point.value)) for point in gain.points] == [("eda", 10.0)]


def test_the_mean_of_epochs_ends_when_half_of_the_trials_have(tmp_path: Path) -> None:
    folder = experiment(tmp_path)
    for seed in (0, 1):
        lines = [
            {"trial": 0, "epoch": at, "valid_accuracy": 0.1 * at + 0.2 * seed}
            for at in range(1, 3 + 2 * seed)
        ]
        path = folder / "1pct" / f"seed-{seed}" / "trials" / "none.linear.history.jsonl"
        path.write_text(
            "".join(
                json.dumps(line) + "\n"
                for line in [*lines, {"trial": 9, "epoch": 1, "valid_accuracy": 0.3}]
            )
        )
    result = report(inputs(folder), tmp_path / "report")
    curve = next(chart for chart in result.charts if chart.name == "learning-curves")
    result = [
        (point.at, round(point.value, 1), point.low)
        for point in curve.points
        if point.series == "none"
    ]
    assert result == [(1.0, 25.0, pytest.approx(10.0)), (2.0, 30.0, pytest.approx(20.0))]


def test_a_method_has_one_style_everywhere_and_its_parts_differ() -> None:
    result = series_styles([], ["gpt3mix", "none", "mine", "gpt3mix [settings a]", "other", "eda"])
    alone = series_styles([], ["eda", "none", "gpt3mix"])
    assert {name: result[name] for name in alone} == alone
    assert result["gpt3mix"].colour == result["gpt3mix [settings a]"].colour
    assert len(set(result.values())) == len(result)


@pytest.mark.parametrize(
    "name", ["_hidden", "$x^2$ \\frac", "中文", "x" * 90, "a\nb\x1b", "'\"<&>"]
)
def test_names_from_data_are_escaped_in_plots(tmp_path: Path, name: str) -> None:
    write_records(
        tmp_path / "trials.jsonl",
        [
            *seeds([0.5, 0.6]),
            *seeds([0.7, 0.8], method=name),
            *seeds([0.7, 0.8], method=name, task=name),
        ],
    )
    report(inputs(tmp_path / "trials.jsonl", name=name), tmp_path)
    assert ElementTree.parse(tmp_path / "gain.svg")
