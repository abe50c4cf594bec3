"""Checkpoints whose experts are renumbered, so that experts in order are a placement of our choice.

Renumbering the experts of a layer, with the rows of its router, leaves what the model computes as
it is. An engine that puts experts on GPUs in order then serves any placement that has each expert
once and as many on each GPU.
"""

from evenload.checkpoint.folder import Checkpoint, open_checkpoint
from evenload.checkpoint.order import ORDER_FILE, ExpertOrder, read_order
from evenload.checkpoint.planned import order_of_placement, plan_order
from evenload.checkpoint.rewrite import reorder_checkpoint, undo_order

__all__ = [
    "ORDER_FILE",
    "Checkpoint",
    "ExpertOrder",
    "open_checkpoint",
    "order_of_placement",
    "plan_order",
    "read_order",
    "reorder_checkpoint",
    "undo_order",
]
