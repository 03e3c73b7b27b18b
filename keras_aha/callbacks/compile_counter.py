"""`CompileCounter`: how many programs JAX has compiled, or read from its persistent cache."""

import jax


class CompileCounter:
    """Counts from when it is made until `close`. After the first epoch of a run the count should stand still.

    Attributes:
        count: programs so far.
        from_cache: those of them that were read from the persistent cache.
        seconds: the time that compiling, or reading, them took.
    """

    def __init__(self):
        self.count, self.from_cache, self.seconds = 0, 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        jax.monitoring.register_event_listener(self._on_hit)

    def close(self) -> None:
        """Counts no more; to be called once. JAX keeps its listeners until then."""
        jax.monitoring.unregister_event_duration_listener(self._on_event)
        jax.monitoring.unregister_event_listener(self._on_hit)

    def _on_event(self, event: str, seconds: float, **kwargs) -> None:
        # JAX reports it for programs from the persistent cache too.
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1
            self.seconds += seconds

    def _on_hit(self, event: str, **kwargs) -> None:
        self.from_cache += event == "/jax/compilation_cache/cache_hits"
