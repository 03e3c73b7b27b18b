"""Tools that a policy may call in any task, see `WithTools`."""
