"""A run's folder → pictures and a page (`write_report`)."""

from keras_aha.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
