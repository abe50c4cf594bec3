"""Coverage-guided fuzzing of the readers of recordings, by atheris.

    python tests/io/fuzz_loads.py pickle -max_total_time=300 -rss_limit_mb=3000

The first argument is what is fuzzed: ``pickle``, the pickle in a well-formed archive of torch, or
the whole file with one of the endings below. The rest goes to libFuzzer. Anything but a refusal in
one sentence stops it, and so do a crash, 25 seconds for one input, or too much memory.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["evenload.io", "pickle"]):
    from evenload.io import FORMATS, read_load

    for known in FORMATS:
        known.function("read_load" if "read_load" in known.can else "read_placement")

NAMES = ("pt", "pth", "parquet", "jsonl", "npz", "npy", "json", "csv", "tsv", "csv.gz")
ENDINGS = {name: f".{name}" for name in NAMES}
FOLDER = Path(tempfile.mkdtemp())


def write_archive(content: bytes) -> Path:
    """Put a pickle into an archive as torch.save lays it out, with 64 bytes of numbers."""
    path = FOLDER / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/byteorder", "little")
        archive.writestr("x/data/0", bytes(range(64)))
        archive.writestr("x/version", "3\n")
    return path


def write_file(content: bytes) -> Path:
    """Write the bytes as they are."""
    if TARGET == "safetensors":
        (FOLDER / "meta_info.json").write_text('{"num_experts": 4}')
        (FOLDER / "rank0.safetensors").write_bytes(content)
        return FOLDER
    path = FOLDER / f"x{ENDINGS[TARGET]}"
    path.write_bytes(content)
    return path


def read(content: bytes) -> None:
    """Read one input; refusals are what is wanted."""
    path = write_archive(content) if TARGET == "pickle" else write_file(content)
    ways = [{}]
    if TARGET == "pickle":
        ways += [{"format": "sglang-recorder"}, {"format": "vllm-ascend-load"}]
    elif TARGET in ("csv", "tsv", "csv.gz"):
        ways += [{"layout": "long"}, {"layout": "loads"}]
    elif TARGET == "jsonl":
        ways += [{"format": "route-log"}]
    for options in ways:
        try:
            read_load(path, **options)
        except ValueError as error:
            if not str(error).startswith(str(path)) or "\n" in str(error):
                raise RuntimeError("not one sentence with the file's name") from error


if __name__ == "__main__":
    TARGET = sys.argv.pop(1)
    atheris.Setup([*sys.argv, "-timeout=25"], read)
    atheris.Fuzz()
