"""Checkers: is an answer right? Each reads a text that a policy wrote, and never evaluates it."""
