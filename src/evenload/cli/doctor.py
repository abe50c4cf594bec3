"""``evenload doctor``: whether evenload would plan on this node, and what nodes must share."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import platform
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from typing import Any

from evenload.checks import printable
from evenload.cli import output
from evenload.extras import how_to_install
from evenload.plugins.settings import PREFIX, Settings, is_asked_for, read_settings

EXAMPLES = """
Examples:
  evenload doctor
  evenload doctor --engine sglang --json
"""

OPTIONS = {
    "what to look at": {
        "--engine NAME": "vllm, sglang or vllm-ascend. Default: the one that is asked for, else "
        "the first of them that is installed.",
    },
    "output": {"--json": "Print one JSON object, not a line per fact."},
}

NAME = "evenload"  # of the entry point, and what an allow-list has to hold
ANSWER = ("plans", "problems")


@dataclass(frozen=True)
class Engine:
    """Where an engine looks for plug-ins, and what ours touch there."""

    title: str
    group: str  # of entry points
    allow_list: str  # variable that names the plug-ins to load; all without it
    hook: tuple[str, ...]  # names without which the plug-in does nothing
    peers: str  # what leads to the other ranks
    switch: str = ""  # the setting that asks for evenload; none: the server's own option does


ENGINES = {
    "vllm": Engine(
        "vLLM", "vllm.general_plugins", "VLLM_PLUGINS",
        (
            "vllm.distributed.eplb.policy:AbstractEplbPolicy",
            "vllm.distributed.eplb.policy:EPLB_POLICIES",
        ),
        "vllm.distributed.parallel_state:get_eplb_group",
        "vllm",
    ),
    "sglang": Engine(
        "SGLang", "sglang.srt.plugins", "SGLANG_PLUGINS",
        (
            "sglang.srt.plugins.hook_registry:HookRegistry.register",
            "sglang.srt.plugins.hook_registry:HookType.AROUND",
            "sglang.srt.eplb.eplb_algorithms:compute_algorithm",
            "sglang.srt.eplb.eplb_algorithms:rebalance_experts",
            "sglang.srt.eplb.expert_location:compute_initial_expert_location_metadata",
            "sglang.srt.eplb.expert_location:get_global_expert_location_metadata",
            "sglang.srt.elastic_ep.elastic_ep:ElasticEPStateManager.instance",
            "sglang.srt.runtime_context:get_exec",
        ),
        "sglang.srt.runtime_context:get_parallel",
    ),
    "vllm-ascend": Engine(
        "vllm-ascend", "vllm.general_plugins", "VLLM_PLUGINS",
        ("vllm_ascend.eplb.core.policy.policy_factory:PolicyFactory.generate_policy",),
        "vllm_ascend.distributed.parallel_state:get_dynamic_eplb_group",
        "vllm_ascend",
    ),
}  # fmt: skip


def run(args: Namespace) -> int:
    """Say whether evenload would plan on this node, and why not.

    Run it on each node, in the environment and with the variables of the engine. It imports the
    engine if that is installed, and tests the planner as the plug-in does. `settings digest` and
    `plans digest` must be the same on all nodes.

    The exit code is 0 if evenload would plan, else 1, and the last line has the first reason. It
    cannot see what only the running engine knows: whether expert balancing is on, and, in SGLang,
    whether --eplb-algorithm names evenload.
    """
    name = _engine(args.engine)
    facts, problems = _versions(name), [*_registration_problems(name)]
    facts |= _registration(name)
    problems += _hook(name, facts)
    problems += _planner(name, facts)
    facts |= _machine()
    facts["plans"] = not problems
    facts["problems"] = problems
    if args.json:
        output.print_json(facts)
    else:
        sys.stdout.writelines(f"{printable(line)}\n" for line in _lines(facts))
    return int(bool(problems))


def _engine(named: str | None) -> str:
    if named is not None:
        if named not in ENGINES:
            raise ValueError(f"--engine {named} is not known; use one of: {', '.join(ENGINES)}")
        return named
    there = [name for name in ENGINES if _installed(name)]
    asked = [name for name, engine in ENGINES.items()
             if engine.switch and is_asked_for(engine.switch)]  # fmt: skip
    name = [*asked, *there, *ENGINES][0]
    others = [other for other in there if other != name]
    output.say_notes(
        (f"{other} is installed too: --engine {other}" for other in others), fold=False
    )
    return name


def _installed(name: str) -> bool:
    found = find_spec(name.replace("-", "_"))
    return found is not None and found.origin is not None  # a mere folder of that name has none


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions(name: str) -> dict[str, Any]:
    from evenload import __version__

    packages = {package: _version(package) for package in ("numba", "numpy", "torch", name)}
    python = platform.python_version()
    return {"host": platform.node(), "evenload": __version__, "python": python, **packages}


def _entry_points(name: str) -> list[str]:
    from importlib import metadata

    found = metadata.entry_points(group=ENGINES[name].group, name=NAME)
    return sorted({point.value for point in found})


def _allowed(name: str) -> bool:
    """Whether the engine's list of plug-ins lets ours through, read as the engine reads it."""
    value = os.environ.get(ENGINES[name].allow_list)
    if name == "sglang":
        names = [part.strip() for part in (value or "").split(",")]
        return NAME in names or not any(names)
    return value is None or NAME in value.split(",")


def _registration(name: str) -> dict[str, Any]:
    engine = ENGINES[name]
    asked = "by --eplb-algorithm evenload of the server, which is not seen here"
    if engine.switch:
        asked = f"{PREFIX}{engine.switch.upper()}: {'on' if is_asked_for(engine.switch) else 'off'}"
    return {
        "engine": engine.title,
        "entry_point": ", ".join(_entry_points(name)) or None,
        "allow_list": f"{engine.allow_list}={os.environ.get(engine.allow_list, '(not set)')}",
        "asked_for": asked,
    }


def _registration_problems(name: str) -> list[str]:
    """Return why the engine would not call the plug-in, or the plug-in would do nothing."""
    engine, problems = ENGINES[name], []
    if not _installed(name):
        problems.append(f"{name} is not installed here; run it in the engine's environment")
    if not _entry_points(name):
        problems.append(
            f"no entry point `{NAME}` in the group {engine.group}; use "
            f"{how_to_install()}, in the engine's environment"
        )
    if not _allowed(name):
        listed = os.environ[engine.allow_list]
        more = f"{listed},{NAME}" if listed.strip() else NAME
        problems.append(
            f"{engine.allow_list}={listed!r} lacks {NAME!r} (without spaces); use "
            f"{engine.allow_list}={more}"
        )
    if engine.switch and not is_asked_for(engine.switch):
        variable = PREFIX + engine.switch.upper()
        problems.append(f"{variable} is off, so {engine.title} plans itself; use {variable}=1")
    return problems


def _hook(name: str, facts: dict[str, Any]) -> list[str]:
    """Import the engine where it is installed, and find what the plug-in touches."""
    if not _installed(name):
        return []
    engine = ENGINES[name]
    output.say(f"importing {engine.title}, which takes seconds")
    missing = [why for why in map(_missing, engine.hook) if why]
    facts["hook"] = "found" if not missing else "not found"
    without = "not found, so ranks would not compare plans"
    facts["group_of_ranks"] = without if _missing(engine.peers) else "found"
    return [f"{engine.title} has no {why}; use a release named in the docs" for why in missing[:1]]


def _missing(name: str) -> str:
    """Return why a name of an engine cannot be had; empty if it can."""
    module, _, attribute = name.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # engines log there, also beside our JSON
            attrgetter(attribute)(import_module(module))
    except Exception as error:
        return f"{module}.{attribute} ({type(error).__name__}: {error})"
    return ""


def _planner(name: str, facts: dict[str, Any]) -> list[str]:
    """Read the settings and run the self-test, as the plug-in does at registration."""
    from evenload.clock import Stopwatch
    from evenload.plugins.agreement import fingerprint
    from evenload.plugins.selftest import planner_for

    settings: Settings | None = None
    with contextlib.suppress(ValueError):  # told by planner_for
        settings = read_settings()
    facts["settings"] = None if settings is None else _said(settings)
    facts["options_file"] = os.environ.get(f"{PREFIX}OPTIONS") or None
    told, handler = logging.Logger("evenload.doctor"), logging.handlers.MemoryHandler(1000, 100)
    handler.setLevel(logging.WARNING)
    told.addHandler(handler)
    output.say("testing the planner, which takes half a minute where nothing is compiled yet")
    with output.busy("testing the planner"), Stopwatch() as watch:
        try:
            planner = planner_for(ENGINES[name].title, told, _check(name))
            failure = planner.failure
        except RuntimeError as error:  # where the settings say to raise
            failure = f"{error}; {ENGINES[name].title} would not start"
    facts["self_test"] = "failed" if failure else "passed"
    facts["self_test_seconds"] = round(watch.seconds + watch.kernels, 2)
    facts["kernels"] = "compiled now" if watch.compiling else "from the cache"
    if failure:
        return [failure]
    output.say_notes((record.getMessage() for record in handler.buffer), fold=False)
    facts["settings_digest"] = fingerprint(planner.settings).hex()
    facts["plans_digest"] = planner.policy.hex()
    return []


def _check(name: str) -> Callable[[Settings], object] | None:
    if name != "sglang":
        return None
    from evenload.plugins.sglang import refuse_placement

    return refuse_placement


def _said(settings: Settings) -> dict[str, Any]:
    """Return the settings that are not at their defaults."""
    plain, said = vars(Settings()), vars(settings)
    return {name: value for name, value in said.items() if value != plain[name]}


def _machine() -> dict[str, Any]:
    from numba.core.caching import FunctionCache

    from evenload.core.greedy import replicate
    from evenload.threads import num_threads, usable_cores

    entry: Any = replicate  # one for all: the folder is that of the core
    folder = None
    with contextlib.suppress(RuntimeError):  # how Numba says that it can write to none
        folder = FunctionCache(entry.__wrapped__).cache_path
    threads = None
    with contextlib.suppress(ValueError):  # the self-test failed of it
        threads = num_threads()
    return {
        "cache_folder": folder,
        "cache_writable": folder is not None,
        "threads": threads,
        "cores": usable_cores(),
        "prometheus_client": _version("prometheus_client"),
        "metrics_folder": os.environ.get("PROMETHEUS_MULTIPROC_DIR") or None,
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    """Return one line per fact; the last says whether evenload plans, and the first reason."""
    shown = [(name, _word(value)) for name, value in facts.items() if name not in ANSWER]
    first, *others = facts["problems"] or [""]
    shown += [("also_wrong", problem) for problem in others]
    shadow = (facts["settings"] or {}).get("shadow")
    yes = "yes, in shadow: the engine runs its own map (EVENLOAD_SHADOW)" if shadow else "yes"
    shown.append(("evenload_plans", f"no, since {first}" if first else yes))
    return [f"{name.replace('_', ' '):18} {value}" for name, value in shown]


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={entry}" for name, entry in value.items()) or "all at defaults"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
