"""Experiments by name. Each module has `Config`, what its YAML in configs/experiments/ may hold, and `run`."""

EXPERIMENTS: dict[str, str] = {
    "adversaries": "distill.experiments.adversaries",
    "foolable_reward": "distill.experiments.foolable_reward",
    "drift": "distill.experiments.drift",
    "schemes": "distill.experiments.schemes",
    "malformed": "distill.experiments.malformed",
    "active_selection": "distill.experiments.active_selection",
    "planted_fault": "distill.experiments.planted_fault",
}
