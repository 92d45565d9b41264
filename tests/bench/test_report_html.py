"""The page that shows a report: what is in it, that it fetches nothing, and that nothing in it can act."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import report_html
from bench.cli import main
from bench.pictures import chapters
from bench.plots import Plot, svg, table
from bench.report_html import name_of, number, page
from bench.results import (
    Comparison,
    Histogram,
    Latency,
    MemoryAt,
    Point,
    Range,
    Report,
    Run,
    Verdict,
    write_json,
)

HOSTILE = "</title><script>alert(1)</script><img src=https://example.org/x onerror='alert(2)'> & \"q\" {{ 7 * 7 }}"


def _latency(*ms: float) -> Latency:
    histogram = Histogram()
    histogram.add({int(1000 * value): 100 for value in ms})
    found = histogram.latency()
    assert found is not None
    return found


def _run(title: str = "1 in flight", verdict: Verdict | None = None, server: str = "parley") -> Run:
    series = [
        Point(
            t=0.5 * step, sent=50, acked=49, delivered=500, ack_p50_ms=1.0, ack_p99_ms=4.0, server_cpu=0.5, pss_mib=90
        )
        for step in range(1, 9)
    ]
    return Run(
        title,
        verdict or Verdict(clean=True, counts={"sent": 400}),
        server,
        figures={"acked_per_s": 98.0, "parley_us_per_delivery": None},
        latency={"ack": _latency(1, 2, 30), "delivery": _latency(2, 3)},
        series=series,
        memory=[MemoryAt(sessions, 80 * 2**20 + 5000 * sessions, 90 * 2**20) for sessions in (100, 1000, 2000)],
    )


def _report(*runs: Run, comparisons: list[Comparison] | None = None) -> Report:
    environment = {"cores": 2, "versions": {"uvloop": "0.23.0"}, "settings": {"PARLEY_DRAIN": "0.1"}}
    return Report("fanout", {"in_flight": [1, 50], "url": None}, environment, list(runs), comparisons or [])


class _Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def _text(html: str) -> str:
    """What is read of a page: without tags and styles, and spaces as one."""
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)).split())


def test_a_page_says_what_was_run_where_and_what_came_out() -> None:
    """Options, environment, figures with their units, verdicts and the plots' titles stand in the page."""
    text = _text(page(_report(_run(), _run("maximum", Verdict(clean=True, void=["generator at 83 % of its core"])))))
    for said in (
        "parley bench fanout",
        "Everything arrived once and in order.",
        "in flight 1, 50",
        "PARLEY_DRAIN 0.1",
        "versions uvloop 0.23.0",
        "acked per second 98.0 98.0",
        "parley µs per delivery – –",
        "1 in flight ack 2 30.0 30.0 30.0 30.0 300",
        "400 sent",
        "maximum (void) void generator at 83 % of its core",
        "Ack latency",
        "Delivered a second",
        "5,000 bytes a session",
    ):
        assert said in text


def test_a_failed_run_says_what_went_wrong() -> None:
    """Lost, repeated and reordered events and each failure stand beside the run, and the page begins with it."""
    verdict = Verdict(clean=False, lost=3, reordered=1, failures={"closed: 4101": 2})
    text = _text(page(_report(_run(verdict=verdict))))
    assert "Failed: not everything arrived once and in order." in text
    assert "failed 3 lost; 1 reordered; 2 × closed: 4101" in text


def test_ratios_stand_with_their_range_and_what_the_other_does_not_promise() -> None:
    """The bar of a ratio has 1 in its middle and ends at the farthest round."""
    bun = Run("one at a time", Verdict(clean=True), "bun", guarantees=["in memory only", "no history"])
    compared = Comparison("deliveries_per_server_cpu_s", "one at a time", "parley", "bun", Range(2.0, 1.0, 4.0), 5)
    html = page(_report(_run(), bun, comparisons=[compared]))
    assert "parley to bun one at a time deliveries per server CPU second 2 1 to 4 5" in _text(html)
    assert "in memory only, no history" in html
    assert '<i style="left:50.00%;width:50.00%"></i><b style="left:75.00%"></b>' in html


def test_a_page_fetches_nothing_and_has_no_script() -> None:
    """No script, no address to load from, and a policy that would forbid both."""
    html = page(_report(_run(), _run("other", server="bun")))
    assert set(re.findall(r"https?:[^\"' ]*", html)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"url\(|@import|//[a-z]", html.replace("http://www.w3.org/2000/svg", ""))
    elements = _Elements(html).found
    assert {tag for tag, _ in elements}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    assert not [name for _, attributes in elements for name in attributes if name in ("src", "href", "xlink:href")]
    policies = [given["content"] for tag, given in elements if tag == "meta" and "http-equiv" in given]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_texts_from_results_are_only_text() -> None:
    """A title, server, figure, option or failure with markup in it adds no element and no attribute."""

    def shape(word: str) -> list[tuple[str, list[str]]]:
        verdict = Verdict(clean=False, void=[word], failures={word: 1}, counts={word: 1})
        run = Run(word, verdict, word, {word: 1.0}, {word: _latency(1, 2)}, _run().series, _run().memory, [word])
        compared = [Comparison(word, word, "parley", word, Range(1.0, 1.0, 1.0), 1)]
        html = page(Report(word, {word: word}, {word: {word: [word]}}, [_run(), run], compared))
        return [(tag, sorted(given)) for tag, given in _Elements(html).found]

    assert shape(HOSTILE) == shape("tame")
    assert "49" not in _text(page(Report(HOSTILE, {}, {}, [])))


@pytest.mark.parametrize(
    "run",
    [
        Run("nothing", Verdict(clean=True)),
        Run("no figure", Verdict(clean=True), figures={"ack_p99_ms": None}),
        Run("a moment of nothing", Verdict(clean=True), series=[Point(0.0, 0, 0, 0), Point(0.5, 0, 0, 0)]),
        Run("one point", Verdict(clean=True), series=[Point(0.5, 1, 1, 1, 0.0, 0.0, server_cpu=0.0, pss_mib=0.0)]),
        Run("one value", Verdict(clean=True), latency={"ack": _latency(0.001)}),
        Run("one reading", Verdict(clean=True), memory=[MemoryAt(0, 0, 0)]),
    ],
    ids=lambda run: run.title,
)
def test_what_is_missing_is_left_out(run: Run) -> None:
    """A run without values, or with a single one, makes a page like any other."""
    assert run.title in _text(page(_report(run)))


def _plots(report: Report) -> dict[str, Plot]:
    return {plot.title: plot for chapter in chapters(report) for plot in chapter.plots}


def test_latency_is_drawn_over_the_nines() -> None:
    """Percentiles stand at 1 / (1 - p), a tenfold rarer one as far again to the right; the last value at its rarity."""
    plot = _plots(_report(_run(), _run("other")))["Ack latency"]
    assert [plot.x.place(share) for share in (0.9, 0.99, 0.999)] == pytest.approx([1, 2, 3])
    assert [line.name for line in plot.lines] == ["1 in flight", "other"]
    assert list(plot.lines[0].points[-1]) == pytest.approx([1 - 1 / 300, 30], rel=0.01)
    head, rows = table(plot)
    assert head == ["percentile", "1 in flight", "other"]
    assert rows[0] == ["50 %", "2", "2"]


def test_rates_are_counts_by_their_seconds() -> None:
    """A point of 49 acks after half a second is 98 a second; where nothing is counted there is no plot."""
    plots = _plots(_report(_run()))
    assert plots["Acked a second"].lines[0].points[0] == (0.5, 98.0)
    assert plots["Memory over time"].lines[0].points[0] == (0.5, 90)
    silent = Run("idle", Verdict(clean=True), series=[Point(0.5, 0, 0, 0, pss_mib=90)])
    assert list(_plots(_report(silent))) == ["Memory over time"]


def test_a_long_run_stays_a_small_page() -> None:
    """Eight hours at two points a second are thinned; the worst of each part is kept, and time is in hours."""
    series = [Point(0.5 * step, 1, 1, 1, 1.0, 99.0 if step == 30_001 else 2.0) for step in range(1, 57_601)]
    plot = _plots(_report(Run("soak", Verdict(clean=True), series=series)))["Ack p99"]
    assert plot.x.label == "hours"
    points = plot.lines[0].points
    assert len(points) <= 400
    assert points[-1][0] == pytest.approx(8)
    assert max(value for _, value in points) == 99


def test_many_runs_are_several_plots() -> None:
    """Eleven runs are in plots of ten lines at most, and in tables of six columns."""
    report = _report(*(_run(f"run {count}") for count in range(11)))
    drawn = [plot for chapter in chapters(report) for plot in chapter.plots if plot.title == "Ack latency"]
    assert [len(plot.lines) for plot in drawn] == [10, 1]
    assert (
        page(_report(*(Run(f"run {count}", Verdict(clean=True), figures={"x": 1}) for count in range(11)))).count(
            '<th scope="col">figure</th>'
        )
        == 2
    )


def test_a_plot_is_for_those_who_cannot_see_it_too() -> None:
    """Each picture is named and described, and its values are in a table beneath."""
    html = page(_report(_run()))
    pictures = [given for tag, given in _Elements(html).found if tag == "svg"]
    assert len({given["id"] for given in pictures}) == len(pictures) == html.count("As a table") > 5
    for given in pictures:
        assert given["role"] == "img"
        for name in (given["aria-labelledby"] or "").split():
            assert f'id="{name}"' in html


def test_a_plot_draws_each_line_in_its_colour() -> None:
    """A run has the same colour for what was read and for the line that fits it."""
    [plot] = [plot for plot in _plots(_report(_run(), _run("other"))).values() if plot.title == "Memory by sessions"]
    picture = svg(plot)
    for colour in (0, 1):
        assert f'class="series dots colour-{colour}"' in picture
        assert f'class="series dashed colour-{colour}"' in picture
    assert "serie-" not in picture


def test_figures_are_written_as_they_are_read() -> None:
    """A name's unit is a unit, and digits that mean nothing are left out."""
    assert name_of("deliveries_per_server_cpu_s")[1:] == ("deliveries", "per server CPU second")
    assert name_of("parley_us_per_delivery")[1:] == ("parley", "µs per delivery")
    assert name_of("ack_p99_ms")[1:] == ("ack p99", "ms")
    assert name_of("sessions")[1:] == ("sessions", "")
    assert name_of("seconds")[1:] == ("seconds", "")
    assert [number(value) for value in (None, 5000, 74_700.4, 12.34, 0.8349)] == [
        "–",
        "5,000",
        "74,700",
        "12.3",
        "0.835",
    ]


def test_a_page_is_drawn_from_results_of_earlier(tmp_path: Path) -> None:
    """`parley bench report` makes the same page of the JSON as a run would have; other files are refused."""
    write_json(_report(_run()), tmp_path / "run.json")
    report_html.write(_report(_run()), tmp_path / "wanted.html")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "run.json")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run.html").read_text() == (tmp_path / "wanted.html").read_text()
    (tmp_path / "other.json").write_text('{"scenario": 1}')
    result = CliRunner().invoke(main, ["report", str(tmp_path / "other.json"), "--html", str(tmp_path / "no.html")])
    assert result.exit_code == 1
    assert "no results of parley bench" in result.output
    assert not (tmp_path / "no.html").exists()
