"""A search for settings: Optuna proposes them, each trial is a training job of a scheduler."""
