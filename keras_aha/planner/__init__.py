"""The planner: what of a recipe fits on which devices, and how fast, without weights and without the devices."""

from keras_aha.planner.planning import plan
from keras_aha.planner.record import DecodePlan, Plan, RunEstimate, TrainPlan
from keras_aha.planner.topology import find_topology

__all__ = ["DecodePlan", "Plan", "RunEstimate", "TrainPlan", "find_topology", "plan"]
