"""The planner: what of a recipe fits on which devices, and how fast, without weights and without the devices."""

from keras_aha.planner.plan_record import DecodePlan, Plan, RunEstimate, StepEstimate, TrainPlan
from keras_aha.planner.plan_text import in_a_line, in_a_table, in_plain_words
from keras_aha.planner.planning import plan
from keras_aha.planner.search import search
from keras_aha.planner.topology import find_topology

__all__ = ["DecodePlan", "Plan", "RunEstimate", "StepEstimate", "TrainPlan", "find_topology", "in_a_line"]
__all__ += ["in_a_table", "in_plain_words", "plan", "search"]
