"""What `evenload doctor` finds on a node, with stand-ins for the engines on disk."""

import ast
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import fails, run

from evenload.cli import doctor
from evenload.plugins import selftest, sglang, vllm, vllm_ascend
from evenload.plugins.agreement import fingerprint
from evenload.plugins.selftest import planner_for
from evenload.plugins.settings import KNOBS, Settings

PLUGINS = {"vllm": vllm, "sglang": sglang, "vllm-ascend": vllm_ascend}
VARIABLES = [knob.variable for knob in KNOBS] + ["VLLM_PLUGINS", "SGLANG_PLUGINS"]
ON = {"vllm": "EVENLOAD_VLLM", "vllm-ascend": "EVENLOAD_VLLM_ASCEND"}


def forget_engines() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("vllm", "vllm_ascend", "sglang"):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder to import from, without an engine; no variable set, and a quick self-test."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(selftest, "self_test", lambda settings: bytes(16))
    monkeypatch.syspath_prepend(tmp_path)
    forget_engines()
    yield tmp_path
    forget_engines()


def install(site: Path, engine: str, without: str = "-", says: str = "") -> None:
    """Put an engine there whose modules have what the plug-in touches."""
    plan = doctor.ENGINES[engine]
    for name in (*plan.hook, plan.peers):
        module, _, attribute = name.partition(":")
        folder = site.joinpath(*module.split("."))
        folder.mkdir(parents=True, exist_ok=True)
        for package in [folder, *folder.parents]:
            if package == site:
                break
            (package / "__init__.py").touch()
        if without not in name:
            first, _, second = attribute.partition(".")
            with (folder / "__init__.py").open("a") as file:
                file.write(f"{says}\nclass {first}:\n    {second or 'any'} = 1\n")


def diagnose(engine: str, **environment: str):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        result = run("doctor", "--engine", engine, "--json")
    assert result.exception is None
    facts = json.loads(result.stdout)
    assert result.exit_code == (0 if facts["plans"] else 1)
    return facts


@pytest.mark.parametrize("engine", doctor.ENGINES)
def test_a_node_that_plans(site, engine):
    install(site, engine, says="print('an engine that talks')")
    facts = diagnose(engine, **{ON.get(engine, "EVENLOAD_AGREE"): "1"})
    assert facts["problems"] == []
    assert (facts["hook"], facts["group_of_ranks"]) == ("found", "found")
    assert facts["entry_point"].startswith("evenload.plugins.")
    assert facts["settings_digest"] == fingerprint(Settings()).hex()


@pytest.mark.parametrize(
    ("engine", "environment", "reason"),
    [
        ("vllm", {}, "EVENLOAD_VLLM is off, so vLLM plans itself; use EVENLOAD_VLLM=1"),
        ("vllm-ascend", {"EVENLOAD_VLLM": "1"}, "EVENLOAD_VLLM_ASCEND is off"),
        ("vllm", {"VLLM_PLUGINS": "lora, evenload"}, "use VLLM_PLUGINS=lora, evenload,evenload"),
        ("vllm", {"VLLM_PLUGINS": ""}, "VLLM_PLUGINS='' lacks 'evenload'"),
        ("sglang", {"SGLANG_PLUGINS": "other"}, "use SGLANG_PLUGINS=other,evenload"),
        ("sglang", {"EVENLOAD_EFORT": "1"}, "EVENLOAD_EFORT is not a setting; use EVENLOAD_EFFORT"),
        ("sglang", {"EVENLOAD_PLACEMENT": "a.json"}, "EVENLOAD_PLACEMENT=a.json is for vLLM"),
        ("sglang", {"EVENLOAD_OPTIONS": "none.toml"}, "none.toml cannot be read"),
    ],
)
def test_why_a_node_does_not_plan(site, engine, environment, reason):
    install(site, engine)
    facts = diagnose(engine, **environment)
    assert reason in facts["problems"][0]


@pytest.mark.parametrize("plugins", [" , ", "a, evenload "])
def test_a_list_that_sglang_reads_as_holding_evenload(site, plugins):
    install(site, "sglang")
    assert diagnose("sglang", SGLANG_PLUGINS=plugins)["plans"]


@pytest.mark.parametrize("engine", doctor.ENGINES)
def test_an_engine_that_is_not_there_is_not_imported(site, engine):
    (site / engine.replace("-", "_")).mkdir()  # of a checkout, say
    facts = diagnose(engine)
    assert facts["problems"][0].startswith(f"{engine} is not installed here")
    assert "hook" not in facts
    assert engine.replace("-", "_") not in sys.modules


def test_a_release_without_the_hook(site):
    install(site, "vllm", without="EPLB_POLICIES")
    facts = diagnose("vllm", EVENLOAD_VLLM="1")
    assert "vLLM has no vllm.distributed.eplb.policy.EPLB_POLICIES" in facts["problems"][0]


def test_a_release_without_a_group_plans_and_does_not_compare(site):
    install(site, "vllm", without="get_eplb_group")
    facts = diagnose("vllm", EVENLOAD_VLLM="1")
    assert facts["plans"]
    assert facts["group_of_ranks"] == "not found, so ranks would not compare plans"


def test_an_engine_that_fails_to_import(site):
    install(site, "vllm", says="raise OSError('libcuda.so.1')")
    assert "OSError: libcuda.so.1" in diagnose("vllm", EVENLOAD_VLLM="1")["problems"][0]


def test_no_entry_point(site, monkeypatch):
    install(site, "vllm")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    facts = diagnose("vllm", EVENLOAD_VLLM="1")
    assert facts["entry_point"] is None
    assert "no entry point `evenload` in the group vllm.general_plugins" in facts["problems"][0]


@pytest.mark.parametrize("reaction", ["fallback", "raise"])
def test_a_self_test_that_fails(site, monkeypatch, reaction):
    def fail(settings):
        raise ImportError("no SciPy here")

    install(site, "vllm")
    monkeypatch.setattr(selftest, "self_test", fail)
    facts = diagnose("vllm", EVENLOAD_VLLM="1", EVENLOAD_ON_FAILURE=reaction)
    (problem,) = facts["problems"]
    assert "ImportError: no SciPy here" in problem
    assert ("vLLM would not start" in problem) == (reaction == "raise")
    assert facts["self_test"] == "failed"
    assert "plans_digest" not in facts


def test_digests_are_those_that_ranks_compare(site, monkeypatch):
    monkeypatch.undo()
    planner = planner_for("vLLM", logging.getLogger("quiet"))
    facts = diagnose("vllm")
    assert facts["plans_digest"] == planner.policy.hex()
    changed = diagnose("vllm", EVENLOAD_SOLVER="greedy")
    assert changed["settings"] == {"solver": "greedy"}
    for digest in ("settings_digest", "plans_digest"):
        assert changed[digest] != facts[digest]
    assert facts["kernels"] == "from the cache"
    assert facts["self_test_seconds"] > 0


def test_the_folder_of_the_cache(site, monkeypatch, tmp_path):
    facts = diagnose("vllm")
    assert facts["cache_writable"]
    assert Path(facts["cache_folder"]).is_dir()

    def none(function):
        raise RuntimeError("cannot cache function")

    monkeypatch.setattr("numba.core.caching.FunctionCache", none)
    facts = diagnose("vllm")
    assert (facts["cache_folder"], facts["cache_writable"]) == (None, False)


def test_lines_end_with_the_answer(site, monkeypatch):
    install(site, "vllm")
    monkeypatch.setenv("VLLM_PLUGINS", "lora")
    result = run("doctor")
    *_, other, answer = result.stdout.splitlines()
    assert result.exit_code == 1
    assert answer.startswith("evenload plans     no, since VLLM_PLUGINS='lora' lacks 'evenload'")
    assert other.startswith("also wrong         EVENLOAD_VLLM is off")
    monkeypatch.setenv("EVENLOAD_VLLM", "1")
    monkeypatch.delenv("VLLM_PLUGINS")
    result = run("doctor")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "evenload plans     yes"
    assert "importing vLLM" in result.stderr
    monkeypatch.setenv("EVENLOAD_SHADOW", "1")
    told = "evenload plans     yes, in shadow: the engine runs its own map (EVENLOAD_SHADOW)"
    assert run("doctor").stdout.splitlines()[-1] == told


def test_an_engine_that_is_asked_for_is_looked_at_where_it_is_missing(site, monkeypatch):
    install(site, "vllm")
    monkeypatch.setenv("EVENLOAD_VLLM_ASCEND", "1")
    told = "evenload plans     no, since vllm-ascend is not installed here"
    assert run("doctor").stdout.splitlines()[-1].startswith(told)


def test_which_engine_is_looked_at(site, monkeypatch):
    assert "not installed" in run("doctor").stdout.splitlines()[-1]
    for engine in doctor.ENGINES:
        install(site, engine)
    monkeypatch.setenv("EVENLOAD_VLLM_ASCEND", "1")
    result = run("doctor", "--json")
    assert json.loads(result.stdout)["engine"] == "vllm-ascend"
    assert "note: sglang is installed too: --engine sglang" in result.stderr
    message = "--engine trt is not known; use one of: vllm, sglang, vllm-ascend"
    fails("doctor", "--engine", "trt", error=message)


@pytest.mark.parametrize("engine", doctor.ENGINES)
def test_the_doctor_knows_what_the_plugin_touches(engine, monkeypatch):
    plugin, known = PLUGINS[engine], doctor.ENGINES[engine]
    root, tree = engine.replace("-", "_"), ast.parse(Path(plugin.__file__).read_text())
    touched = {
        f"{node.module}:{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == root
        for alias in node.names
    }
    if hasattr(plugin, "EPLB_GROUP"):
        touched.add(":".join(plugin.EPLB_GROUP))
    hooked = []
    if engine == "sglang":
        registry = SimpleNamespace(register=lambda target, *_: hooked.append(target))
        kinds = SimpleNamespace(AROUND=0, BEFORE=0)
        fake = SimpleNamespace(HookRegistry=registry, HookType=kinds)
        monkeypatch.setitem(sys.modules, "sglang.srt.plugins.hook_registry", fake)
        monkeypatch.setattr(plugin, "what_differs", lambda *_: "")
        plugin.register()
        # Without it the bytes that move are not counted, and nothing else is missing.
        hooked.remove("sglang.srt.eplb.expert_location_updater.ExpertLocationUpdater.update")
    touched |= {":".join(target.rsplit(".", 1)) for target in hooked}
    assert touched == {
        ":".join([module, attribute.partition(".")[0]])
        for module, _, attribute in (name.partition(":") for name in (*known.hook, known.peers))
    }
