"""What the pages show is what happens."""

import doctest
import importlib
import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from command import run

import evenload
import evenload.solvers.exact
from evenload import Cluster, CostModel, extras
from evenload.io import FORMATS
from evenload.replay import policy_names

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SOURCE = ROOT / "src"
WITH_EXAMPLES = [file for file in SOURCE.rglob("*.py") if ">>> " in file.read_text("utf-8")]
ALONE = ("docs/how-to/extend.md", "docs/how-to/files.md")  # each block runs by itself
LOAD = np.random.default_rng(0).integers(1, 1000, (12, 2, 32))
TOLD = {
    "inspect": " windows, ",
    "size": "Rule: ",
    "convert": "wrote ",
    "measure-expert-time": "wrote 21 points of ",
    "warmup": "all kernels ready",
    "completion": "complete -o default",
    "demo": "Traffic drifts over 6 windows",
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the commands of a page, from top to bottom."""
    page = re.sub(r" \\\n +", " ", page)  # long commands go over several lines
    found = re.findall(r"```(shell|console)\n(.*?)```", page, flags=re.DOTALL)
    lines = [(kind, line) for kind, block in found for line in block.splitlines() if line.strip()]
    lines = [(kind, re.sub(r'^eval "\$\((.*)\)"$', r"\1", line)) for kind, line in lines]
    return [line.removeprefix("$ ") for kind, line in lines if kind == "shell" or line[0] == "$"]


@pytest.mark.parametrize(
    ("name", "subcommands", "num_blocks"),
    [
        ("README.md", {"plan"}, 1),
        ("docs/tutorial-live.md", {"demo", "inspect", "plan", "evaluate", "replay"}, 0),
        ("docs/how-to/install.md", {"warmup", "completion"}, 1),
        ("docs/how-to/files.md", {"inspect", "convert"}, 1),
        ("docs/how-to/extend.md", {"inspect"}, 5),
        ("docs/explanation/bounds.md", set(), 1),
        ("docs/tutorial.md", {"plan", "evaluate"}, 2),
        ("docs/how-to/plan.md", {"plan", "evaluate", "inspect", "convert"}, 6),
        ("docs/how-to/size.md", {"size", "plan"}, 1),
        ("docs/how-to/replay.md", {"replay", "report", "sweep"}, 2),
        ("docs/explanation/seconds.md", {"measure-expert-time", "plan"}, 3),
    ],
)
def test_examples_run(generate, tmp_path, monkeypatch, name, subcommands, num_blocks) -> None:
    page = read(name)
    np.savetxt(tmp_path / "loads.csv", np.concatenate(LOAD[:2]), fmt="%d", delimiter=",")
    np.savez(tmp_path / "trace.npz", load=LOAD)
    for file, text in generate.FILE.findall(page):
        (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for setting, few in (("WINDOWS", 6), ("LAYERS", 2), ("CLUSTERS", ((32, 4, 9), (64, 8, 5)))):
        monkeypatch.setattr(f"evenload.cli.demo._{setting}", few)
    ran = commands(page)
    assert {command.split()[1] for command in ran} == subcommands
    for command in ran:
        program, *arguments = shlex.split(command)
        assert program == "evenload"
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr
        quiet = arguments[0] in ("convert", "measure-expert-time")
        said = result.stderr if quiet else result.stdout
        assert TOLD.get(arguments[0], "balancedness") in said
    if name == "docs/how-to/plan.md":
        assert (tmp_path / "moe_load_balancer.yaml").read_text().startswith("num_slots: 40")
    examples = blocks("python", page)
    assert len(examples) >= num_blocks
    if name in ALONE:
        for example in examples:
            exec(compile(example, name, "exec"), {})
    else:
        exec(compile("\n".join(examples), name, "exec"), {})


def test_pages_show_commands_that_there_are(generate) -> None:
    known = re.findall(r"^## `evenload (\S+)`", read("docs/reference/cli.md"), flags=re.MULTILINE)
    assert len(known) >= 9
    for page in PAGES:
        for command in commands(page.read_text(encoding="utf-8")):
            if command.startswith("evenload "):
                assert command.split()[1] in known, f"{page.name}: {command}"


def test_command_reference_is_current(generate) -> None:
    assert read("docs/reference/cli.md") == generate.command_reference(), "run `make figures`"


@pytest.mark.parametrize(
    "name", [name for name in NAMES if re.search(r"<!-- (examples/|output|settings)", read(name))]
)
def test_a_page_shows_what_the_program_says(generate, name) -> None:
    page = ROOT / name
    assert page.read_text(encoding="utf-8") == generate.filled(page), "run `make figures`"


@pytest.mark.parametrize("name", NAMES)
def test_pages_install_evenload_as_messages_do(name) -> None:
    """And a wheel has the name that it gets now."""
    page = read(name)
    for told in re.findall(r"pip install '?(\.|evenload)(?![\w-])", page):
        assert told == extras.SOURCE
    for wheel in re.findall(r"evenload-\S+\.whl", page):
        assert wheel == f"evenload-{evenload.__version__}-py3-none-any.whl"


def test_the_version_has_a_change_log_and_a_citation() -> None:
    versions = re.findall(r"^## (\S+)", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert versions[:2] == ["Unreleased", evenload.__version__]
    assert f"\nversion: {evenload.__version__}\n" in read("CITATION.cff")


def slugs(page: str) -> set[str]:
    """Return the anchors that a page's headings get, on the site and where Markdown is shown."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name) -> None:
    prose = re.sub(r"```.*?```", "", read(name), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in slugs(file.read_text(encoding="utf-8")), target


def test_the_readme_leads_to_the_pages() -> None:
    targets = re.findall(r"\]\(([^)#:]+)", read("README.md"))
    assert {"docs/index.md", "docs/tutorial.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= set(targets)


def test_what_pypi_shows_of_the_readme_has_no_link_into_the_repository() -> None:
    settings = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["metadata"]["hooks"]
    page = read("README.md")
    for rule in settings["fancy-pypi-readme"]["substitutions"]:
        assert re.search(rule["pattern"], page)
        page = re.sub(rule["pattern"], rule["replacement"], page)
    assert not re.search(r"\]\((?!https://)|src(set)?=", page)


def test_the_pages_on_replays_and_formats_name_everything() -> None:
    replays, formats = read("docs/reference/replay.md"), read("docs/reference/formats.md")
    names = [*policy_names(), *(field.name for field in fields(CostModel))]
    assert not [name for name in names if f"`{name}`" not in replays]
    assert not [form.name for form in FORMATS if f"| `{form.name}` |" not in formats]


KINDS = re.findall(
    r"^\| ([^|]+) \| (`[^|]+`) \| `(evenload [^|]+)` \|$",
    read("docs/how-to/files.md").partition("## Every kind of file")[2],
    flags=re.MULTILINE,
)


@pytest.mark.parametrize(("kind", "shown", "command"), KINDS, ids=[kind[0] for kind in KINDS])
def test_every_kind_of_file_is_read(tmp_path, monkeypatch, kind, shown, command) -> None:
    lines = [line.removeprefix("`").removesuffix("`") for line in shown.split("<br>")]
    assert len(lines) == 3
    _, *arguments = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    if lines[0].startswith("import "):
        pytest.importorskip(lines[0].split()[1].rstrip(","))
        exec("\n".join(lines), {})
    else:
        Path(arguments[1]).write_text("\n".join(lines) + "\n")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr


def test_names_of_columns_are_listed() -> None:
    from evenload.io.columns import MEANINGS

    assert len(KINDS) >= 20
    for meaning, names in MEANINGS.items():
        assert f"| {meaning} | {', '.join(names)} |" in read("docs/reference/formats.md")


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_of_the_readme_exist(target: str) -> None:
    assert f"    make {target} " in read("README.md")
    assert re.search(rf"^{target}:", read("Makefile"), flags=re.MULTILINE)


def test_docstrings_have_examples() -> None:
    assert {"cluster", "trace"} <= {file.stem for file in WITH_EXAMPLES}
    assert len(WITH_EXAMPLES) >= 5


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=lambda file: file.stem)
def test_docstring_examples_run(file: Path) -> None:
    module = importlib.import_module(".".join(file.relative_to(SOURCE).with_suffix("").parts))
    result = doctest.testmod(module, extraglobs={"Cluster": Cluster})
    assert result.attempted > 0
    assert result.failed == 0


def test_exact_is_named_where_the_same_bytes_are_promised() -> None:
    """Its plan depends on the version of OR-tools, and every place that promises must say so."""
    names = ["README.md", "CONTRIBUTING.md", "docs/explanation/how-it-works.md"]
    pages = [evenload.solve.__doc__, evenload.solvers.exact.exact.__doc__, *map(read, names)]
    for page in pages:
        plain = " ".join(str(page).split())
        assert re.search(r"same (bytes|result) (on|for|only)", plain)
        assert re.search(r"version of OR-tools", plain)
