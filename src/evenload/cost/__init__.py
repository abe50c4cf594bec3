"""What tokens, a straggler and a move cost in seconds, from named numbers or measured curves."""

from evenload.cost.expert_time import ExpertTime
from evenload.cost.model import CostModel, Schedule
from evenload.cost.presets import (
    MODELS,
    Experts,
    Hardware,
    check_model_shape,
    hardware_names,
    kv_bytes_per_token,
    model_names,
    model_of,
)
from evenload.cost.table import TimeTable

__all__ = [
    "MODELS",
    "CostModel",
    "ExpertTime",
    "Experts",
    "Hardware",
    "Schedule",
    "TimeTable",
    "check_model_shape",
    "hardware_names",
    "kv_bytes_per_token",
    "model_names",
    "model_of",
]
