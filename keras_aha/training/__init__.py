"""From graded completions to one optimizer step."""
