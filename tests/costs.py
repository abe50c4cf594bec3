"""Costs for tests that are not about them."""

from dataclasses import replace

from evenload import CostModel

# DeepSeek-V3's experts on H100s, for loads of any shape.
LARGE = replace(CostModel.preset("h100-ib", "deepseek-v3"), model="")
