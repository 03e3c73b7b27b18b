"""A run's folder → pictures and a page (`write_report`)."""

from keras_aha.runs.report.page import write_report

__all__ = ["write_report"]
