"""What a straggler and a move cost, in seconds, from a few named numbers."""

from __future__ import annotations

from evenload.cost.hardware import Hardware, hardware_names
from evenload.cost.model import CostModel
from evenload.cost.models import Experts, model_names
from evenload.cost.schedule import Schedule

__all__ = ["CostModel", "Experts", "Hardware", "Schedule", "hardware_names", "model_names"]
