"""Trackers: where the figures of runs are collected, beside the run folder."""
