"""Tables of scored completions: accuracy, pass@k, intervals, behaviours."""
