"""Experiments: `compare`, `sweep`, `trajectory`, `rate_finder`, `state_plot`, `schedule_plot`."""
