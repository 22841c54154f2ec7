import contextlib

import jax
import pytest


@pytest.fixture
def count_compiles():
    """A context manager that yields a function telling how many backend compilations took place."""

    @contextlib.contextmanager
    def counting():
        events = []

        def listen(name, duration, **_):
            if name == "/jax/core/compile/backend_compile_duration":
                events.append(duration)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield lambda: len(events)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)

    return counting
