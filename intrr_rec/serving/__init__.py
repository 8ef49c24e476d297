"""From a run to recommendations: the bundle, and what reads it."""
