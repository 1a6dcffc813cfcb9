"""The way in is true: the drawing, the table of rooms and the paths of docs/design.md against the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "softprompt"
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
GROUND = "ground"
"""The node that stands for several small files, which its label names."""

Arrow = tuple[str, str]


def drawing() -> tuple[set[str], set[str], set[Arrow]]:
    """The nodes that are drawn, the files that the ground stands for, and the arrows."""
    (block,) = re.findall(r"```mermaid\ngraph TD\n(.*?)```", DESIGN, re.DOTALL)
    nodes, ground, arrows = set[str](), set[str](), set[Arrow]()
    for line in map(str.strip, block.splitlines()):
        if label := re.fullmatch(rf'{GROUND}\["(.+)"\]', line):
            ground = set(label[1].split(", "))
            nodes.add(GROUND)
        else:
            start, _, ends = line.partition(" --> ")
            assert re.fullmatch(r"\w+ --> \w+( & \w+)*", line), f"the test cannot read {line!r}"
            arrows |= {(start, end) for end in ends.split(" & ")}
    return nodes | {node for arrow in arrows for node in arrow}, ground, arrows


def real_imports(ground: Iterable[str]) -> set[Arrow]:
    """Imports between rooms, those for types alone among them, as the import rule counts them. Two files of the package
    itself are left out: `__init__`, which hands out names of all rooms when they are asked for, and `__main__`, which is the
    command line."""
    graph = grimp.build_graph("softprompt", cache_dir=None)

    def room(module: str) -> str:
        top = module.split(".")[1]
        return GROUND if top in ground else top

    pairs = [(by, of) for by in graph.modules for of in graph.find_modules_directly_imported_by(by)]
    between = {(room(by), room(of)) for by, of in pairs if "." in by and "." in of and not by.endswith(".__main__")}
    return {(by, of) for by, of in between if by != of}


def reached(start: str, arrows: Iterable[Arrow]) -> set[str]:
    """What a path of arrows leads to."""
    found, waiting = set[str](), [start]
    while waiting:
        here = waiting.pop()
        new = {end for begin, end in arrows if begin == here} - found
        found |= new
        waiting += new
    return found


def faults(drawn: set[Arrow], real: set[Arrow]) -> list[str]:
    """Which arrows are to be added to a drawing or taken away, until it is the smallest that implies all real imports."""
    found = [f"take away `{a} --> {b}`: nothing in {a} imports {b}" for a, b in sorted(drawn - real)]
    found += [f"add `{a} --> {b}`: {a} imports it" for a, b in sorted(real) if b not in reached(a, drawn)]
    found += [
        f"take away `{a} --> {b}`: a path of other arrows says so"
        for a, b in sorted(drawn & real)
        if b in reached(a, drawn - {(a, b)})
    ]
    return found


def test_every_room_is_drawn() -> None:
    nodes, ground, _ = drawing()
    tops = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert (nodes - {GROUND}) | ground == tops - {"__init__", "__main__"}
    assert not (nodes & ground)
    assert all((SOURCE / f"{name}.py").is_file() for name in ground), "a room is no part of the ground"


def test_the_drawing_shows_the_imports_there_are() -> None:
    _, ground, arrows = drawing()
    wrong = faults(arrows, real_imports(ground))
    assert not wrong, "the drawing in docs/design.md is old:\n" + "\n".join(wrong)


def test_a_drawing_that_is_wrong_is_told_what_to_change() -> None:
    real = {("a", "b"), ("b", "c"), ("a", "c")}
    assert faults({("a", "b"), ("b", "c")}, real) == []
    assert faults({("a", "b")}, real) == ["add `a --> c`: a imports it", "add `b --> c`: b imports it"]
    assert faults({("a", "b"), ("b", "c"), ("c", "d")}, real) == ["take away `c --> d`: nothing in c imports d"]
    assert faults(real, real) == ["take away `a --> c`: a path of other arrows says so"]


def rooms() -> dict[str, str]:
    """The table of rooms: which file is to be opened first."""
    section = DESIGN.split("\n## The house\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)/` \| [^|]+ \| `(\w+\.py)` \|$", section, re.MULTILINE))


def test_the_table_has_every_room() -> None:
    assert sorted(rooms()) == sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


@pytest.mark.parametrize("room", sorted(rooms()))
def test_a_room_says_for_itself_what_the_table_and_the_drawing_say_of_it(room: str) -> None:
    text = import_module(f"softprompt.{room}").__doc__ or ""
    opened = re.search(r"Open `(\w+\.py)` first", text)
    assert opened, f"the docstring of {room}/__init__.py names no file: Open `x.py` first"
    assert opened[1] == rooms()[room]
    assert (SOURCE / room / opened[1]).is_file()
    allowed = re.search(r"May import: ([^.;]+)", text)
    assert allowed, f"the docstring of {room}/__init__.py does not say what the room may import"
    _, _, arrows = drawing()
    unsaid = {end for start, end in arrows if start == room} - {GROUND} - set(re.findall(r"`(\w+)`", allowed[1]))
    assert not unsaid, f"{room} imports {unsaid}, and its docstring does not say so"


@pytest.mark.parametrize("room", sorted(str(path.parent.relative_to(SOURCE)) for path in SOURCE.glob("*/**/__init__.py")))
def test_a_room_within_a_room_says_which_file_to_open_first(room: str) -> None:
    text = ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    opened = re.search(r"Open `(\w+\.py)`\s+first", text)
    assert opened, f"the docstring of {room}/__init__.py names no file: Open `x.py` first"
    assert (SOURCE / room / opened[1]).is_file()


@cache
def names_in(file: Path) -> frozenset[str]:
    """What a file defines: functions, classes, `Class.method`, and assigned names."""

    def names(body: list[ast.stmt], within: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield within + node.name
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{within}{node.name}.")
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (within + target.id for target in targets if isinstance(target, ast.Name))

    return frozenset(names(ast.parse(file.read_text(encoding="utf-8")).body, ""))


HOPS = re.findall(r"`([\w/]+\.py): ([\w.]+)`", DESIGN + CONTRIBUTING)


def test_each_path_has_its_hops() -> None:
    for path in ("Train", "Predict", "A request"):
        (hops,) = re.findall(rf"^\*\*{path}\.\*\*.*\n\n((?:\d\. .*\n(?:   .*\n)*)+)", DESIGN, re.MULTILINE)
        assert all(re.match(r"\d\. `[\w/]+\.py: [\w.]+`", hop) for hop in re.findall(r"^\d.*$", hops, re.MULTILINE))
        assert hops.count("\n") > 3


@pytest.mark.parametrize(("file", "name"), sorted(set(HOPS)))
def test_a_name_that_is_said_to_be_in_a_file_is_there(file: str, name: str) -> None:
    assert name in names_in(SOURCE / file), f"{file} defines no {name}"


def test_each_row_of_what_to_touch_counts_its_files() -> None:
    rows = re.findall(r"^\| (an? \w+) \| (.+) \| (\d+) \|$", CONTRIBUTING, re.MULTILINE)
    assert len(rows) == 8
    for thing, files, count in rows:
        assert len(re.findall(r"`[\w/.<>-]+\.(?:py|md)`", files)) == int(count), thing


@pytest.mark.parametrize("page", ["docs/design.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(page: str) -> None:
    named = set(re.findall(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|md))(?=[`:])", (ROOT / page).read_text(encoding="utf-8")))
    named -= set(rooms().values())  # which stand beside their rooms
    missing = [name for name in sorted(named) if not (SOURCE / name).exists() and not (ROOT / name).exists()]
    assert named
    assert missing == []
