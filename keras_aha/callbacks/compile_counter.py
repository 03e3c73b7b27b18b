"""`CompileCounter`: how many programs JAX has compiled, or read from its persistent cache."""

import jax


class CompileCounter:
    """Counts from when it is made. After the first epoch of a run the count should stand still.

    Attributes:
        count: programs so far.
        seconds: that the compiler took for them, or reading them.
    """

    def __init__(self):
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, seconds: float, **kwargs) -> None:
        # JAX reports it for programs from the persistent cache too.
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1
            self.seconds += seconds
