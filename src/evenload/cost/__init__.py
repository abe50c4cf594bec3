"""What a straggler and a move cost, in seconds, from a few named numbers."""

from __future__ import annotations

from evenload.cost.model import CostModel, Schedule
from evenload.cost.presets import Experts, Hardware, hardware_names, model_names

__all__ = ["CostModel", "Experts", "Hardware", "Schedule", "hardware_names", "model_names"]
