"""Move real experts on torch.distributed while they serve, and survive the death of any rank.

For whoever writes an engine or a trainer (extra ``live``). A `Balancer` runs on every rank; the
protocol is told in ``docs/explanation/live.md``. To import it does not import torch.
"""

from evenload.live.balancer import Balancer
from evenload.live.membership import FencedError, Membership
from evenload.live.policy import Policy
from evenload.live.report import Report

__all__ = ["Balancer", "FencedError", "Membership", "Policy", "Report"]
