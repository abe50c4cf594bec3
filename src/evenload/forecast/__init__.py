"""What the next window may look like: one load, or samples of it."""

from evenload.forecast.estimators import ESTIMATORS, forecast
from evenload.forecast.samples import Samples, samples

__all__ = ["ESTIMATORS", "Samples", "forecast", "samples"]
