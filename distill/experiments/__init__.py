"""Experiments by name. Each module has `Config`, what its YAML in configs/experiments/ may hold, and `run`."""

EXPERIMENTS: dict[str, str] = {
    "malformed": "distill.experiments.malformed",
    "planted_fault": "distill.experiments.planted_fault",
}
