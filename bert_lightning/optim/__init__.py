"""Optimisers, schedules, parameter groups and freezing."""
