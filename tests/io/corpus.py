"""Small files of the kinds that people have, each with its right answer or its exact refusal.

Layouts are those of public files, named beside each; numbers and sentences are our own. A refusal
comes with what its advice is: other options, or another file, which have to be read.
"""

from dataclasses import dataclass, field
from typing import Any

E_NOTE = (
    "{path}: taken to have as many experts as the largest expert number + 1 = 2 (say --experts, or "
    "num_experts=, where the model has more)"
)
LONG = [[10, 20], [5, 7]]  # [L, E]


@dataclass
class Case:
    """A file and what it is."""

    name: str
    content: str | bytes
    load: Any = None  # [L, E] or [T, L, E]
    ids: tuple[int, ...] | None = None  # the model's layers
    notes: tuple[str, ...] = ()
    refused: str | None = None  # the message, behind the file's name
    options: dict[str, Any] = field(default_factory=dict)  # that the advice names
    mended: str | bytes | None = None  # what the advice makes of the content
    after: Any = None  # load once the advice is followed
    gpus: list[list[list[int]]] | None = None  # [L][G] experts, read as a placement


AS_LOADS = "if they are tokens, --as loads (layout='loads')"
LONG_NOTES = (E_NOTE,)

# ---- tables ----

TABLES = [
    # SGLang's first recorder: expert_distribution_rank0_timestamp*.csv (sgl-project/sglang, 2025)
    Case("sglang.csv", "layer_id,expert_id,count\n3,0,10\n3,1,20\n4,0,5\n4,1,7\n", LONG, (3, 4),
         LONG_NOTES),
    # spreadsheets: spaces, capitals
    Case("Sheet 1.csv", "Layer ID,Expert ID,Count\r\n0,0,10\r\n0,1,20\r\n1,0,5\r\n1,1,7\r\n", LONG,
         (0, 1), LONG_NOTES),
    # frequency tables of forks of llama.cpp: the header is a comment
    Case("freq.csv", "# layer,expert,count\n3,0,10\n3,1,20\n\n4,0,5\n4,1,7\n# total,42\n", LONG,
         (3, 4), LONG_NOTES),
    # a routing counter that tells prefill from decode; one phase
    Case("phase.csv", "phase,layer_id,expert_id,selection_count\n0,0,0,10\n0,0,1,20\n", [[10, 20]],
         (0,), ("{path}: the column 'phase' is not read", E_NOTE)),
    # both phases
    Case("phases.csv",
         "phase,layer_id,expert_id,selection_count\n0,0,0,10\n0,0,1,20\n1,0,0,5\n1,0,1,7\n",
         refused=": window 0, layer 0, expert 0 is there twice; write prefill and decode in the "
         "column 'phase', not numbers",
         mended="phase,layer_id,expert_id,selection_count\nprefill,0,0,10\nprefill,0,1,20\n"
         "decode,0,0,5\ndecode,0,1,7\n",
         after=[[15, 27]]),
    # with shares beside the counts (llama.cpp's moe tools), tabs
    Case("share.tsv", "layer\texpert\tcount\tfrac_of_layer\n0\t0\t10\t.3\n0\t1\t20\t.7\n",
         [[10, 20]], (0,), ("{path}: the column 'frac_of_layer' is not read", E_NOTE)),
    Case("steps.csv", "step;moe-layer;Expert_Idx;Tokens\n4;2;0;10\n4;2;1;20\n9;2;0;5\n9;2;1;7\n",
         [[[10, 20]], [[5, 7]]], (2,), LONG_NOTES),
    Case("bom.csv", "\ufefflayer,expert,n\n0,0,10\n0,1,20\n".encode(), [[10, 20]], (0,),
         LONG_NOTES),
    Case("wide.csv", "layer,0,1\n3,10,20\n4,5,7\n", LONG, (3, 4)),
    Case("named.csv", "e0,e1\n10,20\n5,7\n", LONG,
         notes=("{path}: the first line, e0, e1, is taken as a header",)),
    Case("headerless.csv", "0,0,10\n0,1,20\n1,0,5\n1,1,7\n",
         refused=": the column counts 0, 0, 1, 1 and the next one numbers within it: rows of "
         f"layer, expert and count, not a column an expert; --as long reads it; {AS_LOADS}",
         options={"layout": "long"}, after=LONG),
    Case("two.csv", "0,10\n1,20\n2,5\n",
         refused=": the first column counts 0, 1, ... as numbers of rows do, not tokens of an "
         "expert; leave it out, or in text head it layer and the others 0, 1, ...; "
         f"{AS_LOADS}",
         mended="layer,0\n0,10\n1,20\n2,5\n", after=[[10], [20], [5]]),
    Case("layers.csv", "3,10,20\n4,5,7\n5,8,9\n",
         refused=": the first column counts 3, 4, ... as numbers of rows do, not tokens of an "
         f"expert; leave it out, or in text head it layer and the others 0, 1, ...; {AS_LOADS}",
         mended="layer,0,1\n3,10,20\n4,5,7\n5,8,9\n", after=[[10, 20], [5, 7], [8, 9]]),
    Case("index.csv", ",0,1\n0,10,20\n1,5,7\n",
         refused=", line 1: the first column is headed '' and would be read as an expert; leave "
         "row numbers out, or head it layer",
         mended="layer,0,1\n0,10,20\n1,5,7\n", after=LONG),
    Case("thousands.csv", '"1,234",900,12\n800,901,13\n700,600,15\n',
         refused=", line 1, column 1: '1,234' is not a number, and other cells of the line are; "
                 "if it "
         "is a header, none may be",
         mended="1234,900,12\n800,901,13\n700,600,15\n",
         after=[[1234, 900, 12], [800, 901, 13], [700, 600, 15]]),
    Case("hex.csv", "0x10,2\n3,4\n",
         refused=", line 1, column 1: '0x10' is not a number, and other cells of the line are; if "
                 "it "
         "is a header, none may be", mended="16,2\n3,4\n", after=[[16, 2], [3, 4]]),
    Case("underscore.csv", "1_0,2_0\n3,4\n",
         refused=", line 1, column 1: '1_0' is not a number; write it in digits alone, or give the "
         "column a name that is none", mended="10,20\n3,4\n", after=[[10, 20], [3, 4]]),
    Case("underscore2.csv", "10,20\n3,4_0\n",
         refused=", line 2, column 2: '4_0' is not a number", mended="10,20\n3,40\n",
         after=[[10, 20], [3, 40]]),
    Case("digits.csv", "10,20\n3,\u0664\n", refused=", line 2, column 2: '\u0664' is not a number",
         mended="10,20\n3,4\n", after=[[10, 20], [3, 4]]),
    Case("spaces.csv", "10 20\n5 7\n",
         refused=", line 1, column 1: '10 20' is not a number; separate numbers by commas: "
         "tr -s ' ' , < IN > OUT", mended="10,20\n5,7\n", after=LONG),
    Case("mac.csv", "10,20\r5,7\r",
         refused=": this is not comma-separated text: its lines end in a carriage return; "
         "tr '\\r' '\\n' < IN > OUT", mended="10,20\n5,7\n",
         after=LONG),
    Case("placed.csv", "Expert,Node\n0,1\n1,0\n2,1\n3,0\n",
         refused=": the columns are Expert, Node: a placement (the node of each expert), not "
         "loads; --as placement reads it as one, and loads need a column of tokens",
         gpus=[[[1, 3], [0, 2]]]),
    Case("placed2.csv", "layer,expert,gpu\n3,0,1\n3,1,0\n4,0,0\n4,1,1\n",
         refused=": the columns are layer, expert, gpu: a placement (the gpu of each expert), not "
         "loads; --as placement reads it as one, and loads need a column of tokens",
         ids=(3, 4), gpus=[[[1], [0]], [[0], [1]]]),
    Case("slots.csv", "3,1,2,0\n0,1,2,3\n",
         refused=": each row has every number from 0 to 3: a placement (the expert in each slot), "
         f"not loads; --as placement reads it as one; {AS_LOADS}",
         options={"layout": "loads"}, after=[[3, 1, 2, 0], [0, 1, 2, 3]],
         gpus=[[[3, 1], [2, 0]], [[0, 1], [2, 3]]]),
    Case("mask.csv", "1,0\n0,1\n",
         refused=": all numbers are 0 or 1: a placement or a mask, not loads; "
         f"{AS_LOADS}", options={"layout": "loads"}, after=[[1, 0], [0, 1]]),
    Case("unknown.csv", "layer,expert,share\n0,0,0.5\n0,1,0.5\n",
         refused=": the columns are layer, expert, share: none is the tokens; use layer, expert "
         "and tokens, or layer and one column an expert (0, 1, ... or expert_0, expert_1, ...), "
         "and window in front where there are several",
         mended="layer,expert,tokens\n0,0,0.5\n0,1,0.5\n", after=[[0.5, 0.5]]),
    Case("both.csv", "layer,expert,count,load\n0,0,1,2\n",
         refused=": the columns 'count' and 'load' both mean tokens; leave one out, or rename it",
         mended="layer,expert,count,share\n0,0,1,2\n", after=[[1]]),
]  # fmt: skip

# ---- JSON ----

JSONS = [
    # OpenEvolve's and ADRS's example eplb: expert-load.json (abmfy/eplb-openevolve)
    Case("expert-load.json",
         '{"load_history": [{"logical_expert_load": [[10, 20], [5, 7]]}, '
         '{"logical_expert_load": [[1, 2], [3, 4]], "physical_expert_load": [[1, 2, 3]]}]}',
         [LONG, [[1, 2], [3, 4]]]),
    Case("keyed.json", '{"0": [10, 20], "1": [5, 7]}', LONG, (0, 1)),
    Case("by-expert.json", '{"3": {"0": 10, "1": 20}, "4": {"0": 5, "1": 7}}', LONG, (3, 4),
         LONG_NOTES),
    Case("layers.json", '{"model": "x", "layers": {"3": {"cnt": [10, 20]}, "4": {"cnt": [5, 7]}}}',
         LONG, (3, 4)),
    Case("layer-names.json", '{"layer_0": [10, 20], "layer_1": [5, 7]}', LONG, (0, 1)),
    Case("expert-counts.json", '{"expert_counts": [[10, 20], [5, 7]], "tokens": 9}', LONG),
    Case("records.json",
         '[{"layer": 0, "expert": 0, "count": 10}, {"layer": 0, "expert": 1, "count": 20}]',
         [[10, 20]], (0,), LONG_NOTES),
    Case("rows.json", '[{"layer": 3, "counts": [10, 20]}, {"layer": 4, "counts": [5, 7]}]', LONG,
         (3, 4)),
    Case("unknown.json", '{"seen": [[10, 20], [5, 7]], "bias": [1, 2], "model": "x"}',
         refused=": no key is known as loads; found: seen ([2, 2]), bias ([2]), model (str); name "
         "the one, as --key seen (key=)", options={"key": "seen"}, after=LONG),
    Case("nested.json", '{"stats": {"seen": [[10, 20], [5, 7]], "bias": [1]}}',
         refused=": no key is known as loads; found: stats.seen ([2, 2]), stats.bias ([1]); name "
         "the one, as --key stats.seen (key=)", options={"key": "stats.seen"}, after=LONG),
    Case("twice.json", '{"load": [[1, 2]], "load": [[3, 4]]}',
         refused=": the key 'load' is there twice; leave one out",
         mended='{"load": [[3, 4]]}', after=[[3, 4]]),
    Case("layer-twice.json", '{"0": [1, 2], "layer_0": [3, 4]}',
         refused=": layer 0 is there twice, the second time as 'layer_0'; leave one out",
         mended='{"layer_0": [3, 4]}', after=[[3, 4]]),
    Case("mask.json", "[[1, 0], [0, 1]]",
         refused=": all numbers are 0 or 1: a placement or a mask, not loads; "
         f"{AS_LOADS}", options={"layout": "loads"}, after=[[1, 0], [0, 1]]),
    Case("triples.json", "[[0, 0, 10], [0, 1, 20], [1, 0, 5], [1, 1, 7]]",
         refused=": the column counts 0, 0, 1, 1 and the next one numbers within it: rows of "
         f"layer, expert and count, not a column an expert; --as long reads it; {AS_LOADS}",
         options={"layout": "long"}, after=LONG),
    Case("uneven.json", '{"0": [1, 2], "1": [3]}',
         refused=": layer 1 has shape [1], and layer 0 [2]; make all of one shape",
         mended='{"0": [1, 2], "1": [3, 0]}', after=[[1, 2], [3, 0]]),
]  # fmt: skip

# ---- logs of routes ----

ROUTES = [
    # a logger put into vLLM by VLLM_LOG_MOE (weiran0129/vLLM-MoE-Logger)
    Case("moe_routes.jsonl",
         '{"type": "meta", "model_id": "x", "num_experts": 4, "top_k": 2}\n'
         '{"type": "route", "req_id": "a", "token_idx": 0, "layer": 0, "topk_ids": [1, 3], '
         '"topk_weights": [0.6, 0.4]}\n'
         '{"type": "route", "req_id": "a", "token_idx": 1, "layer": 0, "topk_ids": [1, 0]}\n'
         '{"type": "route", "req_id": "b", "token_idx": 0, "layer": 0, "topk_ids": [2, 3]}\n',
         [[[1, 2, 0, 1]], [[0, 0, 1, 1]]], (0,)),
    Case("batches.jsonl",
         '{"layer": 3, "batch_id": 7, "topk_experts": [[0, 1], [1, -1]]}\n'
         '{"layer": 4, "batch_id": 7, "topk_experts": [[0, 1], [0, 1]]}\n',
         [[[1, 2], [2, 2]]], (3, 4),
         ("{path}: the number of experts is not in the file; taken as the largest expert number + "
          "1 = 2 (say --experts, or num_experts=, where the model has more)",
          "{path}: 1 tokens are padded by -1, which is not counted")),
    Case("bad.jsonl", '{"layer": 0, "topk_ids": [0, -2]}\n',
         refused=", line 1: topk_ids has -2; use experts 0 to 65535",
         mended='{"layer": 0, "topk_ids": [0, 2]}\n', after=[[[1, 0, 1]]]),
    Case("twice.jsonl", '{"layer": 0, "topk_ids": [0], "layer": 1}\n',
         refused=", line 1: the key 'layer' is there twice; leave one out",
         mended='{"layer": 1, "topk_ids": [0]}\n', after=[[[1]]]),
]  # fmt: skip
CASES = [*TABLES, *JSONS, *ROUTES]
