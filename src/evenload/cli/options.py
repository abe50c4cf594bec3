"""Options that commands have in common, as `evenload.cli.parser_of` reads them."""

from __future__ import annotations

from typing import Any

LOADS = {
    "LOADS": "Tokens routed to each expert: a .npz, .npy, .csv, .json or .parquet file, or what an "
    "engine recorded (a file, a folder, or a pattern in quotes: 'dump/*.pt'); see --format. A .npz "
    "holds `load` [windows, layers, experts] or [layers, experts], or `topk` [tokens, layers, k]; "
    "a .csv has one row per layer and one column per expert, or the columns layer, expert and "
    "count.",
}
TRACE = {
    "TRACE": "Tokens routed to each expert, window by window: a .npz with `load`, a .npy or a "
    ".json, [windows, layers, experts], a .parquet, or what an engine recorded; see --format.",
}
WINDOW = {
    "--window N": "Take window N of a trace (from 0, or from the end: -1), not the sum of all.",
}
MAX_BYTES = {
    "--max-bytes N": "Bytes that reading may hold at once, for one window, line or text. Default: "
    "1073741824 (1 GiB).",
}
LAYOUT = {
    "--as NAME": "How to read numbers that could mean two things: long (rows of layer, expert "
    "and count), loads (tokens, whatever they look like) or placement.",
    "--key NAME": "Key under which the loads are, in a .json, .npz or .pt file; parts joined by "
    "dots.",
    "--window-tokens N": "Tokens of a window, for a log of routed experts. Default: each request "
    "is a window.",
}
PHASE = {
    "--phase NAME": "Take only the tokens of one phase, prefill or decode, from a file that "
    "tells them apart. Default: all tokens.",
}
READING = {
    "--experts N": "Experts per layer, for a file of routed experts (`topk`) that does not say.",
    "--format NAME": "Format of the loads: npz, npy, csv, json, parquet, sglang-recorder, "
    "sglang-logical-count, tensorrt-llm-statistics, vllm-routed-experts, vllm-ascend-load or "
    "route-log. Default: told by the file's ending and content. Required for routed experts of "
    "vLLM [tokens, layers, k] in a .npy, a .npz or a folder.",
    **PHASE,
    **MAX_BYTES,
    **LAYOUT,
}
ORDER = {
    "--from-order FILE": "Convert the numbers of experts from those of a reordered checkpoint to "
    "the original ones. FILE is its evenload_order.json, or its folder.",
    "--to-order FILE": "The reverse: from the original numbers to those of the reordered "
    "checkpoint.",
}
THE_GPUS = "GPUs of the expert-parallel group."
THE_SLOTS = (
    "Slots of a layer over all GPUs; if they do not divide evenly, the first GPUs get one extra. "
    "Slots beyond the number of experts hold replicas of busy ones."
)
CLUSTER = {
    "--gpus G!": THE_GPUS,
    "--nodes N:1": "Nodes, with equally many GPUs each.",
    "--slots S": f"{THE_SLOTS} Default: as few as hold every expert once.",
}
GROUPS = {
    "--groups N:1": "Groups of experts that routing keeps on one node (8 for DeepSeek-V3).",
}
DISPATCH = {
    "--dispatch NAME:even": "How the engine picks a replica for a token: even (vLLM), live (split "
    "for each batch: SGLang's lp), nearest or static (SGLang's, by where replicas are). plan and "
    "evaluate also know one (one replica of each active expert, for --tokens-per-batch).",
}
LIVE_SHARE = {
    "--live-share P": "For --dispatch live: share of the time in which the engine splits tokens "
    "live; in the rest it shares them evenly. Default: 1.",
}
COPY_SLACK = {
    "--copy-slack P": "For --dispatch copy (homes for a balancer that copies experts for every "
    "microbatch, as MoonEP): how far a GPU may stay above its share of the tokens. Default: "
    "0.05.",
}
GPUS = {
    "--gpus G": "GPUs that a placement is for, if its file does not say.",
    "--nodes N": "Nodes of these GPUs, if the file does not say. Default: 1.",
}
PRICES = {
    "--hardware NAME": "Machine that the seconds are for: h100-ib, h200-ib, h800-ib, "
    "ascend-910c, ascend-910b, l40s-pcie or h100-pcie. Required, unless --cost gives all "
    "numbers.",
    "--model NAME": "Whose experts move: deepseek-v3, deepseek-r1, deepseek-v2-lite, "
    "qwen3-235b-a22b, qwen3-30b-a3b, gpt-oss-20b, gpt-oss-120b, kimi-k2, glm-4.5, olmoe-1b-7b, "
    "mixtral-8x7b or mixtral-8x22b. Default: the one that has these layers and experts.",
    "--cost NAME=X*": "Replace one number of the cost model: tokens_per_second, expert_bytes, "
    "bandwidth_in_node, bandwidth_between_nodes (bytes per second), latency (seconds) or overlap "
    "(0 to 1). With the first two no model is needed, with the first four no hardware. May be "
    "given repeatedly.",
}
PHASE_WEIGHT = {
    "--phase-weight NAME=X,...": "For a file of several phases: the weight of each, e.g. "
    "prefill=1,decode=2. Default: equal weights, however many tokens a phase has; with "
    "--expert-time, in proportion to its batches.",
}
BATCHES = {
    "--expert-time NAME": "Plan by seconds, not by tokens: how long a GPU takes for an expert's "
    "tokens. A .csv of `evenload measure-expert-time`, or hardware as for --hardware.",
    "--tokens-per-batch N|NAME=N,...": "For --expert-time or --dispatch one: tokens that all "
    "GPUs together put through a layer at once. For several phases, one number each: "
    "prefill=8192,decode=256.",
    "--top-k N": "For --tokens-per-batch: experts per token. Default: the model's.",
}
MODEL = {"--model NAME": PRICES["--model NAME"].replace("experts move", "experts they are")}
PLACEMENT_FORMAT = (
    "Format of the placement's file, see `evenload convert --to`. Default: told by its content."
)
ONE_WAY = "--slots and --redundant are two ways to say one thing; give one of them"
JSON = {"--json": "Print one JSON object, not a table."}
PLOT = {
    "--plot FILE": "Draw the load of each GPU in each layer, before and after, to a .png, .svg or "
    ".pdf.",
    "--split": "Also show what the placement would reach with a live split of tokens.",
}


def both(given: Any, other: Any, rule: str) -> None:
    """Raise `ValueError` if an option is given without the one that it is for."""
    if given is not None and (other is None or other is False):
        raise ValueError(f"{rule}; give both, or neither")
