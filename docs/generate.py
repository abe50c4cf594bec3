"""Write into the pages what the program says: `make figures`.

A page marks each place by a comment, and what follows the comment is replaced:

- ``<!-- examples/FILE -->``: a block with that file, which lies beside the page;
- ``<!-- output -->``: a block ``console``, whose commands run in a folder with the page's files; a
  file is the block after ``<!-- file: NAME -->``;
- ``<!-- settings -->`` to ``<!-- end -->``: the table of the plug-ins' settings.

The command reference is written as a whole, and the pictures of the demo, of experts' time, of
plans by time and of slots are drawn.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference" / "cli.md"
LANGUAGES = {".sh": "shell", ".py": "python", ".yaml": "yaml", ".toml": "toml"}
EPILOG = "\nResults go to stdout"  # every command ends with it; the page says it once
EXAMPLE = re.compile(r"(<!-- (examples/\S+) -->)(\n+```\w+\n.*?```)?", re.DOTALL)
FILE = re.compile(r"<!-- file: (\S+) -->\n+```\w+\n(.*?)```", re.DOTALL)
OUTPUT = re.compile(r"(<!-- output -->\n+```console\n)(.*?)```", re.DOTALL)
SETTINGS = re.compile(r"(<!-- settings -->\n).*?(<!-- end -->)", re.DOTALL)
TIME = re.compile(r" *[\d,.]+ ms\b")  # differs from run to run, and with its width


def evenload(arguments: list[str], folder: Path | None = None) -> str:
    """Run the command and return what it prints."""
    environment = os.environ | {"COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "evenload", *arguments],
        check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder,
    ).stdout.rstrip()  # fmt: skip


def command_reference() -> str:
    """Return the Markdown of the command reference."""
    top = evenload(["--help"])
    listed = top.partition("Commands:\n")[2].partition("\n\n")[0]
    commands = re.findall(r"^  (\w[\w-]*) ", listed, flags=re.MULTILINE)
    parts = ["# Commands", "", "Written by `make figures` from the commands' own help."]
    for command in ["", *commands]:
        said = evenload([command, "--help"]).partition(EPILOG)[0].rstrip() if command else top
        name = f"evenload {command}".rstrip()
        parts += ["", f"## `{name}`", "", "```text", said, "```"]
    return "\n".join(parts) + "\n"


def settings_table() -> str:
    """Return all that can be set on the plug-ins, as Markdown."""
    from evenload.plugins.settings import KNOBS

    rows = ["| variable | default | meaning |", "| :-- | :-- | :-- |"]
    for knob in KNOBS:
        value = int(knob.default) if isinstance(knob.default, bool) else knob.default
        default = "" if value in (None, "") else f"`{value}`"
        rows.append(f"| `{knob.variable}` | {default} | {knob.meaning} |")
    return "\n".join(rows)


def filled(path: Path) -> str:
    """Return a page with its examples, output and settings as they are now."""
    page = path.read_text(encoding="utf-8")
    page = EXAMPLE.sub(lambda found: f"{found[1]}\n\n{_block(path.parent / found[2])}", page)
    if SETTINGS.search(page):
        table = settings_table()
        page = SETTINGS.sub(lambda found: f"{found[1]}\n{table}\n\n{found[2]}", page)
    if OUTPUT.search(page):
        page = _with_output(page)
    return page


def _block(example: Path) -> str:
    text = example.read_text(encoding="utf-8").rstrip()
    return f"```{LANGUAGES[example.suffix]}\n{text}\n```"


def _with_output(page: str) -> str:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in FILE.findall(page):
            (folder / file).write_text(text, encoding="utf-8")
        return OUTPUT.sub(lambda found: f"{found[1]}{_session(found[2], folder)}```", page)


def _session(shown: str, folder: Path) -> str:
    """Run the commands of a block; where only times differ, what is shown stays."""
    now = ""
    for command in re.findall(r"^\$ evenload (.*)$", shown, flags=re.MULTILINE):
        now += f"$ evenload {command}\n{evenload(shlex.split(command), folder)}\n"
    return shown if TIME.sub("", shown) == TIME.sub("", now) else now


def demo_figures() -> dict[str, Figure]:
    """Draw what `evenload demo` draws, on white and on a dark page."""
    from evenload.cli.demo import followed, made_up
    from evenload.report.courses import draw_courses

    panels = followed(made_up(0))
    return {mode: draw_courses(panels, mode) for mode in ("light", "dark")}


def expert_time_figure() -> Figure:
    """Draw what an expert takes for its tokens, and on average where its tokens are chance."""
    import numpy as np
    from matplotlib.figure import Figure

    from evenload.cost import CostModel, ExpertTime
    from evenload.report.palette import LIGHT

    machine, models = "h200-ib", ("qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v3")
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    tokens, batch = np.geomspace(1, 4096, 400), 8192
    shares = np.geomspace(0.05 / batch, 0.5, 200)
    load = np.stack([shares, 1.0 - shares], axis=1)
    for model, colour in zip(models, LIGHT, strict=False):
        curve = ExpertTime.preset(machine, model)
        roofline = ExpertTime.preset(machine, model, measured=False)
        linear = CostModel.preset(machine, model).expert_time
        style = "-." if curve == roofline else "-"
        if curve != roofline:
            label = f"{model}: measured"
            left.loglog(tokens, 1e6 * curve.seconds(tokens), color=colour, label=label)
        label = f"{model}: {roofline.source if curve == roofline else 'roofline'}"
        left.loglog(tokens, 1e6 * roofline.seconds(tokens), "-.", color=colour, label=label)
        left.loglog(tokens, 1e6 * linear.seconds(tokens), "--", color=colour, linewidth=0.8)
        seconds = curve.expected_seconds(load, tokens_per_batch=batch)[:, 0]
        right.loglog(batch * shares, 1e6 * seconds, style, color=colour)
        right.loglog(tokens, 1e6 * curve.seconds(tokens), ":", color="black", linewidth=1)
    left.plot([], [], "--", color="black", linewidth=0.8, label="in proportion to tokens")
    right.plot([], [], ":", color="black", label="always so many tokens")
    left.set(title="One expert on an H200", xlabel="tokens in the batch", ylabel="µs")
    right.set(
        title=f"Mean over batches of {batch:,} tokens", xlabel="tokens in a batch, on average"
    )
    left.set_ylim(0.5, 500)
    left.legend(fontsize=8)
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def by_time_figure() -> Figure:
    """Draw what plans by tokens and by time take, by the tokens of a batch."""
    import numpy as np
    from matplotlib.figure import Figure

    from evenload import Cluster, Placement, solve
    from evenload.cost import ExpertTime
    from evenload.report.palette import LIGHT
    from evenload.seconds import layer_seconds
    from evenload.synth import lognormal_load

    machine, model, experts = "h100-ib", "qwen3-30b-a3b", 128
    load = lognormal_load(6, experts, 0.8, seed=0)
    curve = ExpertTime.preset(machine, model)
    none, some = (Cluster(8, num_slots=slots) for slots in (experts, 144))
    batches = 2 ** np.arange(3, 15)
    kinds = ("by tokens, 144 slots", "by time, 144 slots", "by time, 128 slots", "bound, 144 slots")
    seconds = {kind: np.empty(len(batches)) for kind in kinds}
    in_order = Placement.trivial(len(load), experts, none)
    tokens = solve(load, some).placement
    for n, batch in enumerate(batches):
        how = {"expert_time": curve, "tokens_per_batch": int(batch), "top_k": 8}
        base = layer_seconds(in_order, load, **how).mean()
        plan, without = solve(load, some, **how), solve(load, none, **how)
        found = (layer_seconds(tokens, load, **how), plan.seconds, without.seconds)
        for kind, each in zip(kinds, (*found, plan.seconds_bound), strict=True):
            seconds[kind][n] = each.mean() / base
    figure = Figure(figsize=(7.5, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.axhline(1.0, color="black", linewidth=0.8, label="in order, 128 slots")
    for kind, colour, style in zip(kinds, LIGHT, ("-o", "-o", "-o", "--"), strict=False):
        axes.semilogx(batches, seconds[kind], style, base=2, markersize=4, color=colour, label=kind)
    axes.set(
        title=f"Slowest of 8 GPUs, {curve.source}", xlabel="tokens of a batch, each to 8 experts",
        ylabel="time per layer, in order = 1", xticks=batches, xticklabels=batches,
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def size_figure() -> Figure:
    """Draw what slots take in prefill and in decode, by their memory."""
    from evenload.cost import ExpertTime
    from evenload.report.figures import draw_sizes
    from evenload.sizing import advise, clusters_to_try
    from evenload.synth import two_phase_trace

    machine, model = "h100-ib", "gpt-oss-20b"
    advices = [
        advise(
            two_phase_trace(12, 6, 32),
            clusters_to_try(32, gpus),
            model=model,
            hardware=machine,
            expert_time=ExpertTime.preset(machine, model),
            tokens_per_batch={"prefill": 8192, "decode": 64},
            top_k=4,
            points=3,
        )
        for gpus in (8, 16)
    ]
    return draw_sizes(advices)


def main() -> None:
    """Write the reference, the marked places of all pages, and the pictures."""
    REFERENCE.write_text(command_reference(), encoding="utf-8")
    for page in sorted(DOCS.rglob("*.md")):
        page.write_text(filled(page), encoding="utf-8")
    for mode, figure in demo_figures().items():
        figure.savefig(DOCS / "figures" / f"demo-{mode}.png")
    expert_time_figure().savefig(DOCS / "figures" / "expert_time.png")
    size_figure().savefig(DOCS / "figures" / "size.png")
    by_time_figure().savefig(DOCS / "figures" / "by_time.png")


if __name__ == "__main__":
    main()
