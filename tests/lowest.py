"""Print the lowest versions that are declared, as requirements for pip: `make test-lowest`.

Left out are torch, whose lowest wheel on PyPI brings CUDA along (gigabytes), and tools that only
look at sources.
"""

import re
import sys
import tomllib
from pathlib import Path

LEFT_OUT = {"codespell", "mypy", "proselint", "ruff", "torch"}

declared = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
project = declared["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
names = {re.split(r"[><=]", line)[0]: line for group in groups for line in group}
for line in declared["dependency-groups"]["dev"]:
    names.setdefault(re.split(r"[><=]", line)[0], line)
lowest = [line.replace(">=", "==") for name, line in names.items() if name not in LEFT_OUT]
sys.stdout.write(" ".join(lowest))
