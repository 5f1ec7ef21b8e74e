"""The report page and the drawings in it: whole, escaped, self-contained; and looked at in a real browser."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfunc.calls import StoredCall
from hyperfunc.errors import JournalError
from hyperfunc.journal import CandidateRecord, Journal, ScoreRecord, fingerprint_data, fingerprint_program
from hyperfunc.journal.charts import line_chart
from hyperfunc.journal.graph import graph_of_calls, graph_of_components, to_dot, to_svg
from hyperfunc.journal.layout import lay_out
from hyperfunc.journal.report import render_report, write_report
from hyperfunc.journal.textdiff import text_diff
from hyperfunc.parameters.theta import Theta
from hyperfunc.tape import Tape
from hyperfunc.usage import Usage

NOTHING: dict[str, Any] = {"program": fingerprint_program(), "data": fingerprint_data()}
EVIL = "</pre><script>alert('x')</script>&\ud800\x00"
_VOID = {"meta", "br", "link"}


class Checker(HTMLParser):
    """Every element is closed in order; collects text and looks for what a self-contained page must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert name not in {"src", "onload", "onclick"}
            assert not (name == "href" and not (value or "").startswith("#"))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def example_tape() -> Tape:
    tape = Tape()
    root = tape.begin("plan", ("where is my order?",), {}, None)
    found = tape.begin("retrieve", ("where is my order?",), {"k": 5}, root)
    found.output = "orders take three days"
    tape.finish(found)
    reply = tape.begin("answer", ("orders take three days", torch.zeros(2, 3)), {}, root)
    reply.error = TimeoutError("no reply within 30 s")
    reply.usage = Usage(calls=1, usd=0.002)
    tape.finish(reply)
    tape.finish(root)
    return tape


async def filled(path: Path) -> Journal:
    journal = Journal(path)
    run = await journal.start_run("run <1>", config={"note": EVIL, "sigma": 0.1}, **NOTHING)
    theta = Theta({"w": torch.zeros(3), "prompt": "Answer briefly."})
    await journal.record_generation(run, 0, theta=theta, fitness={"best": 0.0, "sigma": 0.1})
    later = Theta({"w": torch.ones(3), "prompt": f"Answer at length. {EVIL}"})
    await journal.record_generation(
        run, 1, theta=later, fitness={"best": 0.7, "validation": 0.6}, spend={"answer": Usage(calls=3, usd=0.25)}
    )
    await journal.record_candidate(run, CandidateRecord("seed", verdict="seed"))
    child = CandidateRecord("child", parents=("seed",), verdict="rejected", reason=EVIL, texts={"prompt": EVIL})
    await journal.record_candidate(run, child)
    await journal.record_scores(run, [ScoreRecord("seed", "0", 0.5), ScoreRecord("child", "0", None, feedback=EVIL)])
    await journal.record_event(run, "fallback", {"why": EVIL})
    await journal.record_trace(run, example_tape(), example="7", label="best")
    await journal.call_store(run).put(
        StoredCall("k", "llm", 1, Usage(calls=1, usd=0.125, seconds=2.5), component="judge")
    )
    await journal.finish_run(run, "budget: usd", theta=later, score=0.7)
    return journal


async def test_the_page_is_whole_and_everything_in_it_is_escaped(tmp_path: Path) -> None:
    with await filled(tmp_path / "journal.db") as journal:
        path = write_report(journal, "run <1>", tmp_path / "out" / "report.html")
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "script" not in checker.tags
    assert re.search(r"https?://(?!www\.w3\.org/2000/svg)", page) is None  # nothing is loaded from anywhere
    text = "".join(checker.words)
    for expected in (
        "run <1>", "budget: usd", "Answer", "at length", "alert('x')", "moved by", "1.7321",
        "answer failed on example 7", "TimeoutError: no reply within 30 s", "no score for child on train example 0",
        "judge (paid call)", "2,500.0 ms", "retrieve", "fallback", "$0.3750",
    ):  # fmt: skip
        assert expected in text, expected
    assert "<del>Answer briefly.</del><ins>Answer at length." in page
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


async def test_a_run_that_recorded_nothing_has_a_page_too(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.db") as journal:
        await journal.start_run("empty", config={}, **NOTHING)
        page = render_report(journal, "empty")
        with pytest.raises(JournalError, match="no run named"):
            render_report(journal, "nobody")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "no parameters were recorded" in page


@pytest.mark.integration
async def test_the_page_in_a_real_browser(tmp_path: Path, chromium: Path, pictures: Path) -> None:
    with await filled(tmp_path / "journal.db") as journal:
        page = write_report(journal, "run <1>", tmp_path / "report.html")
    picture = pictures / "report.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1300,2600"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    subprocess.run(  # noqa: ASYNC221 (nothing else runs in this loop)
        [chromium, *options, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    from PIL import Image

    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24) or []
    painted = {colour for _, colour in colours}
    assert (47, 111, 222) in painted  # the first line of a chart
    assert len(painted) > 200


def test_graphs_show_calls_dataflow_and_failures() -> None:
    from hyperfunc.journal.records import TraceRecord
    from hyperfunc.journal.traces import trace_calls, trace_edges

    tape = example_tape()
    trace = TraceRecord(1, 1, "7", "best", 0.0, 1.0, trace_calls(tape), trace_edges(tape))
    graph = graph_of_components([trace, trace])
    assert [(node.label, node.calls, node.errors) for node in graph.nodes] == [
        ("plan", 2, 0),
        ("retrieve", 2, 0),
        ("answer", 2, 2),
    ]
    edges = {(edge.source, edge.target, edge.kind): edge.count for edge in graph.edges}
    assert edges == {
        ("plan", "retrieve", "calls"): 2,
        ("plan", "answer", "calls"): 2,
        ("retrieve", "answer", "feeds"): 2,
    }
    dot = to_dot(graph)
    assert dot.startswith('digraph "hyperfunc" {')
    assert '"retrieve" -> "answer" [style=dashed, label="×2"];' in dot
    svg = ElementTree.fromstring(to_svg(graph))
    names = [element.text for element in svg.iter() if element.get("class") == "name"]
    assert names == ["plan", "retrieve", "answer"]
    assert sum((element.get("class") or "").startswith("edge") for element in svg.iter()) == 3
    assert len(graph_of_calls(trace).nodes) == 3
    assert "float32[2, 3]" in trace.calls[2].inputs
    ElementTree.fromstring(to_svg(graph_of_components([])))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
def test_any_graph_can_be_laid_out_without_overlaps(edges: list[tuple[int, int]]) -> None:
    layout = lay_out(range(10), edges)
    assert len(set(layout.position.values())) == 10
    assert len(layout.paths) == len(edges)
    for (source, target), path in zip(edges, layout.paths, strict=True):
        assert path[0] == layout.position[source]
        assert path[-1] == layout.position[target]
        layers = [layer for layer, _ in path]
        step = 1 if len(layers) < 2 or layers[1] > layers[0] else -1
        assert layers == list(range(layers[0], layers[0] + step * len(layers), step))
    ways = [tuple(place) for path in layout.paths for place in path[1:-1]]
    assert len(set(ways)) == len(ways)
    assert not set(ways) & set(layout.position.values())


def test_an_acyclic_graph_runs_from_left_to_right() -> None:
    layout = lay_out("abcd", [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")])
    assert [layout.position[name][0] for name in "abcd"] == [0, 1, 2, 3]
    assert len(layout.paths[2]) == 3  # round b


def test_charts_have_round_ticks_gaps_and_all_spikes() -> None:
    line = [(float(x), 1.0 if x == 7777 else 0.1) for x in range(20_000)]
    svg = line_chart({"spiky": line}, x_label="generation", title="t")
    assert len(svg) < 100_000
    heights = [float(pair.split(",")[1]) for pair in re.findall(r'points="([^"]*)"', svg)[0].split()]
    assert min(heights) == pytest.approx(12.0)  # the spike reaches the top
    gap = line_chart({"a": [(0, 1.0), (1, 2.0), (2, float("nan")), (3, 1.0), (4, 3.0)]}, x_label="x", title="t")
    assert gap.count("<polyline") == 2
    assert "nothing recorded" in line_chart({"a": [(0, float("nan"))]}, x_label="x", title="t")
    assert ">0.05<" in line_chart({"a": [(0, 0.011), (1, 0.049)]}, x_label="x", title="t")


def test_text_diffs_mark_words() -> None:
    assert text_diff("Say yes.\nBe kind.", "Say no.\nBe kind.") == (
        '<pre class="diff">Say <del>yes</del><ins>no</ins>.\nBe kind.</pre>'
    )
    assert text_diff(None, "<b>") == '<pre class="diff"><ins>&lt;b&gt;</ins></pre>'
    assert "<ins>2</ins>" in text_diff({"a": 1}, {"a": 2})
