"""``evenload measure-expert-time``: what an expert takes the GPU at hand."""

from __future__ import annotations

from argparse import Namespace

from evenload.cli import output

EXAMPLES = """
Examples:
  evenload measure-expert-time --hidden 2048 --intermediate 768 -o curve.csv
  evenload measure-expert-time --hidden 7168 --intermediate 2048 --dtype fp8 -o curve.csv
"""

OPTIONS = {
    "the experts": {
        "--hidden N!": "The model's hidden_size.",
        "--intermediate N!": "Its moe_intermediate_size (intermediate_size for some models).",
        "--dtype NAME:bf16": "Type of the weights: bf16 or fp8.",
    },
    "what to measure": {
        "--experts N": "Most experts active at once. Default: 32, and 4 on a CPU.",
        "--device NAME": "cuda or cpu. Default: the GPU, if torch finds one.",
    },
    "output": {"-o, --output FILE!": "The curve, a .csv."},
}


def run(args: Namespace) -> None:
    """Measure how long experts take for their tokens, on the GPU at hand.

    Runs torch's grouped matrix products of one MoE layer with 1 to all active experts and 1 to
    4096 tokens per expert. A GPU takes some seconds. On a CPU, fewer points are measured, and
    they are the CPU's.
    """
    from evenload.checks import unknown_ending
    from evenload.cost.measure import measure_expert_time

    if ending := unknown_ending(args.output, [".csv"]):
        raise ValueError(f"{args.output}: curves are not written to files with {ending}; use .csv")
    if not args.output.parent.is_dir():
        raise ValueError(f"{args.output}: no folder {args.output.parent}; use one that is there")
    shape = args.hidden, args.intermediate, args.dtype
    with output.busy("measuring") as tell:
        how = {"num_experts": args.experts, "device": args.device, "tell": tell}
        measured = measure_expert_time(*shape, **how)
    measured.write(args.output)
    output.say_notes(measured.notes)
    output.say(
        f"wrote {len(measured.points)} points of {measured.about['device']} to {args.output}"
    )
