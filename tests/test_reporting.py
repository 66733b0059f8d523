"""The report: sections as they were published, in order, as Markdown and as one page that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure as Drawing

from benchmarks.reporting.section import Section, Table, read_sections, save_figure

matplotlib.use("Agg")


def drawing() -> Drawing:
    made = Drawing()
    made.subplots().plot([1, 2, 3])
    return made


def section(name: str, *parts: str | Table) -> Section:
    return Section(name, f"About {name}", f"python -m {name}", 12.34, parts, machine="a machine")


def test_sections_come_back_as_they_were(tmp_path: Path) -> None:
    figure = save_figure("curve", "a curve", drawing(), tmp_path)
    made = Section(
        "some-name", "Title", "command", 1.0, ["words", Table("t", ["a", "b"], [["1", "2"]]), figure], machine="m"
    )
    made.publish(tmp_path)
    assert read_sections(tmp_path) == [made]


def test_a_section_takes_the_place_of_the_one_of_its_name(tmp_path: Path) -> None:
    section("grid", "old words").publish(tmp_path)
    section("grid", "new words").publish(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "new words" in text
    assert "old words" not in text


def test_sections_stand_in_the_order_of_the_report_and_unknown_ones_last(tmp_path: Path) -> None:
    for name in ("another", "micro", "grid", "paper-mnist"):
        section(name).publish(tmp_path)
    text = (tmp_path / "README.md").read_text()
    places = [text.index(f"About {name}") for name in ("paper-mnist", "grid", "micro", "another")]
    assert places == sorted(places)


def test_the_page_holds_its_figures_and_escapes_what_is_no_markup(tmp_path: Path) -> None:
    figure = save_figure("curve", "a <b> curve", drawing(), tmp_path)
    table = Table("a | b", ["x|y", "z"], [["1|2", "<script>"]])
    Section("grid", "Title", "command", 1.0, [figure, table], machine="m").publish(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert 'src="figures' not in page
    assert "1|2" in page
    assert "\\|" not in page
    assert "<script>" not in page


def test_the_same_drawing_gives_the_same_bytes(tmp_path: Path) -> None:
    first = (tmp_path / "figures" / save_figure("a", "", drawing(), tmp_path).file).read_bytes()
    assert first == (tmp_path / "figures" / save_figure("b", "", drawing(), tmp_path).file).read_bytes()


def test_what_is_wrong_with_a_section_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        Table("t", ["a"], [["1", "2"]])
    with pytest.raises(ValueError, match="lower-case"):
        section("../escape").publish(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_the_report_of_the_repository_is_made_from_its_sections() -> None:
    report = Path(__file__).parents[1] / "benchmarks" / "report"
    for found in read_sections(report):
        assert found.title in (report / "README.md").read_text()
        raw = json.loads((report / "sections" / f"{found.name}.json").read_text())
        assert raw["name"] == found.name
