"""Time and peak memory of every reader, as ratios to the plain library's call on the same file.

Each is measured in a process of its own. The plain call is what one would write without evenload:
it checks nothing, and where a format is a folder or a pickle it may not even sum the ranks.
"""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.measure import fresh, number, table, times
from benchmarks.memory import PEAK, write_dump
from evenload import Cluster, Placement
from evenload.io import write_load, write_placement
from evenload.trace import Trace

TITLE = "Readers"
LAYERS, EXPERTS, GPUS = 58, 256, 32
ROUNDS = 3

PLAIN = {
    "numpy": "numpy.load({path})",
    "numpy npz": "numpy.load({path})['load']",
    "numpy topk": "numpy.load({path})['topk']",
    "numpy map": "numpy.load({path})['physical_to_logical']",
    "csv": "[[float(cell) for cell in row] for row in csv.reader(open({path}))]",
    "csv long": "list(csv.reader(open({path})))[1:]",
    "json": "json.load(open({path}))",
    "json lines": "[json.loads(line) for line in open({path})]",
    "pyarrow": "pyarrow.parquet.read_table({path})",
    "torch": "torch.load({path}, weights_only=True)",
    "safetensors": "[safetensors.numpy.load_file(f) for f in pathlib.Path({path}).glob('*.saf*')]",
    "PyYAML": "yaml.load(open({path}), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))",
}
MODULES = {
    "numpy": "numpy", "csv": "csv", "json": "json", "pyarrow": "pyarrow.parquet", "torch": "torch",
    "safetensors": "pathlib, safetensors.numpy", "PyYAML": "yaml",
}  # fmt: skip

# Both calls are made on a small file first, so that neither imports nor compilations count.
PROGRAM = (
    PEAK
    + """
import {modules}
def call(path):
    {call}
call({small!r})
before, seconds = lowered_peak(), []
for _ in range({rounds}):
    started = time.perf_counter()
    call({large!r})
    seconds.append(time.perf_counter() - started)
print(json.dumps({{"seconds": min(seconds), "peak": peak() - before}}))
"""
)
LOADS = "file = evenload.io.read_trace(path{how}); total = sum(window.sum() for window in file)"
NAMED = "evenload.io.read_placement_file(path, num_gpus=32, format='table-placement')"
MAP = "evenload.io.read_placement_file(path, num_gpus=32)"


def _load(path: Path, windows: int) -> Any:
    rng = np.random.default_rng(0)
    load = rng.integers(0, 5000, (windows, LAYERS, EXPERTS))
    write_load(path, Trace(load))


def _csv(path: Path, windows: int) -> Any:
    rng = np.random.default_rng(0)
    write_load(path, Trace(rng.integers(0, 5000, (1, LAYERS * windows, EXPERTS))))


def _json(path: Path, windows: int) -> Any:
    load = np.random.default_rng(0).integers(0, 5000, (windows, LAYERS, EXPERTS))
    value = load.tolist()
    path.write_text(json.dumps({"logical_count": value} if "logical" in path.name else value))


def _long(path: Path, windows: int) -> Any:
    load = np.random.default_rng(0).integers(0, 5000, (windows, LAYERS, EXPERTS))
    rows = np.column_stack([*np.indices(load.shape).reshape(3, -1), load.ravel()])
    np.savetxt(path, rows, "%d", ",", header="window,layer,expert,count", comments="")


def _history(path: Path, windows: int) -> Any:
    load = np.random.default_rng(0).integers(0, 5000, (windows, LAYERS, EXPERTS))
    items = [{"logical_expert_load": window} for window in load.tolist()]
    path.write_text(json.dumps({"load_history": items}))


def _log(path: Path, windows: int) -> Any:
    with path.open("w") as stream:
        for token, rows in enumerate(_topk(windows).tolist()):
            about = {"type": "route", "req_id": token // 64, "token_idx": token % 64}
            for layer, experts in enumerate(rows):
                stream.write(json.dumps(about | {"layer": layer, "topk_ids": experts}) + "\n")


def _ones(path: Path, windows: int) -> Any:
    ranks = np.zeros((GPUS, LAYERS * windows, EXPERTS), np.int8)
    experts = np.arange(EXPERTS)
    ranks[experts // (EXPERTS // GPUS), :, experts] = 1
    np.save(path, ranks)


def _packed(path: Path, windows: int) -> Any:
    load = np.random.default_rng(0).integers(0, 5000, (windows, LAYERS, EXPERTS))
    np.savez_compressed(path, load=load)


def _topk(windows: int) -> Any:
    return np.random.default_rng(0).integers(0, EXPERTS, (windows * 64, LAYERS, 8), np.int32)


def _routed(path: Path, windows: int) -> Any:
    np.savez(path, topk=_topk(windows), num_experts=EXPERTS)


def _lines(path: Path, windows: int) -> Any:
    with path.open("w") as stream:
        for _ in range(windows):
            content = io.BytesIO()
            np.save(content, _topk(1))
            text = base64.b64encode(content.getvalue()).decode()
            stream.write(json.dumps({"choices": [{"routed_experts": text}]}) + "\n")


def _stat(path: Path, windows: int) -> Any:
    import torch

    counts = np.random.default_rng(0).integers(1, 5000, (windows, LAYERS, EXPERTS), np.int32)
    torch.save({"rank": 0, "logical_count": torch.from_numpy(counts)}, path)


def _passes(path: Path, windows: int) -> Any:
    write_dump(path, windows * LAYERS * 512 * 8 * 4, 512)


def _tensor(path: Path, windows: int) -> Any:
    import torch

    counts = np.random.default_rng(0).integers(1, 5000, (windows, LAYERS, EXPERTS))
    torch.save(torch.from_numpy(counts), path)


def _ranks(path: Path, windows: int) -> Any:
    from safetensors.numpy import save_file

    path.mkdir()
    (path / "meta_info.json").write_text(json.dumps({"num_experts": EXPERTS}))
    rng = np.random.default_rng(0)
    for rank in range(4):
        keys = [f"{t}_{layer}" for t in range(windows) for layer in range(LAYERS)]
        counts = {key: rng.integers(1, 5000, EXPERTS, np.int32) for key in keys}
        save_file(counts, path / f"rank{rank}.safetensors")


def _placement(path: Path, windows: int, name: str | None = None) -> Any:
    cluster = Cluster(GPUS, num_slots=GPUS * min(4 * windows, 64) + EXPERTS)
    write_placement(path, Placement.trivial(LAYERS, EXPERTS, cluster), format=name)


def _ascend(path: Path, windows: int) -> Any:
    cluster = Cluster(GPUS, num_slots=EXPERTS + GPUS * min(windows, 7))
    write_placement(path, Placement.trivial(LAYERS, EXPERTS, cluster), format="vllm-ascend")


def _map(path: Path, windows: int) -> Any:
    import torch

    places = np.full((LAYERS * max(1, windows // 8), GPUS, EXPERTS), -1)
    experts = np.arange(EXPERTS)
    each = EXPERTS // GPUS
    places[:, experts // each, experts] = experts % each
    torch.save(torch.from_numpy(places), path)


# By the format's name in `evenload.io`: what writes a file, its ending, the plain call, ours.
FORMATS: dict[str, tuple[Callable[..., Any], str, str, str]] = {
    "npy": (_load, ".npy", "numpy", LOADS),
    "npz": (_load, ".npz", "numpy npz", LOADS),
    "npz, compressed": (_packed, ".npz", "numpy npz", LOADS),
    "npz, topk": (_routed, ".npz", "numpy topk", LOADS),
    "csv": (_csv, ".csv", "csv", LOADS),
    "csv, long": (_long, ".csv", "csv long", LOADS),
    "json": (_json, ".json", "json", LOADS),
    "json, load history": (_history, ".json", "json", LOADS),
    "sglang-logical-count": (_json, "_logical.json", "json", LOADS),
    "parquet": (_load, ".parquet", "pyarrow", LOADS),
    "sglang-recorder, stat": (_stat, ".pt", "torch", LOADS),
    "sglang-recorder, per_token": (_passes, "_0.pt", "torch", LOADS),
    "tensorrt-llm-statistics": (_ranks, "", "safetensors", LOADS),
    "vllm-ascend-load": (_tensor, ".pth", "torch", LOADS),
    "route-log": (_log, ".jsonl", "json lines", LOADS),
    "vllm-routed-experts": (_lines, ".jsonl", "json lines", LOADS),
    "table-placement": (_ones, ".npy", "numpy", NAMED),
    "evenload": (_placement, ".json", "json", MAP),
    "evenload-npz": (_placement, ".npz", "numpy map", MAP),
    "sglang": (_placement, ".pt", "torch", MAP),
    "tensorrt-llm": (_placement, ".yaml", "PyYAML", MAP),
    "vllm-ascend": (_ascend, ".json", "json", MAP),
    "vllm-expert-map": (_map, ".pth", "torch", MAP),
}


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure every reader on a file of some megabytes beside the plain call."""
    results = [measure(name, 8 if quick else 128, say) for name in FORMATS]
    return {"readers": results, "shape": [LAYERS, EXPERTS]}


def measure(name: str, windows: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return bytes of the file of one format, and seconds and peak of both calls."""
    say(name)
    write, ending, plain, ours = FORMATS[name]
    with TemporaryDirectory() as folder:
        small, large = Path(folder, f"small{ending}"), Path(folder, f"large{ending}")
        write(small, 1)
        write(large, windows)
        size = sum(p.stat().st_size for p in (large.iterdir() if large.is_dir() else [large]))
        paths = {"small": str(small), "large": str(large), "rounds": ROUNDS}
        how = f", num_experts={EXPERTS}" if name == "vllm-routed-experts" else ""
        modules = MODULES[plain.split()[0]]
        theirs = {"modules": modules, "call": PLAIN[plain].format(path="path")}
        mine = {"modules": "evenload.io", "call": ours.format(how=how)}
        other, told = (
            json.loads(fresh(["-c", PROGRAM.format(**call, **paths)])) for call in (theirs, mine)
        )
    return {"name": name, "plain": plain.split()[0], "bytes": size, "library": other} | told


def render(result: dict[str, Any]) -> str:
    """Return the section's Markdown."""
    rows = []
    for r in result["readers"]:
        size, other = r["bytes"] / 1e6, r["library"]
        floor = 1e5  # bytes: below it the high-water mark is pages of the interpreter
        peaks = max(r["peak"], floor), max(other["peak"], floor)
        rows.append((
            r["name"], r["plain"], f"{size:.1f}", number(1e3 * r["seconds"] / size),
            times(r["seconds"] / other["seconds"]), number(peaks[0] / 1e6 / size),
            times(peaks[0] / peaks[1]),
        ))  # fmt: skip
    head = (
        "format", "beside", "file MB", "ms per MB", "time / plain", "peak MB per MB",
        "peak / plain",
    )  # fmt: skip
    return "\n\n".join([
        "Every number of a file is read and checked, all windows one after another; the plain call "
        f"loads the file and checks nothing. The fastest of {ROUNDS} calls; peak is the growth of "
        "the high-water mark of resident memory, in a process of its own.",
        table(head, rows),
    ])  # fmt: skip
