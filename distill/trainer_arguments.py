"""What every trainer of this project is told: neither write, nor log, nor ask the network."""

from __future__ import annotations

from typing import Any, TypeVar

A = TypeVar("A", bound=Any)


def quiet_arguments(scratch: str, seed: int) -> dict[str, Any]:
    """Keywords that transformers' TrainingArguments and all that TRL derives from it have in common.

    `scratch` is a folder for what a library may want to write all the same.
    """
    return {
        "output_dir": scratch,
        "seed": seed,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def lesson_arguments(scratch: str, seed: int, steps: int, batch: int) -> dict[str, Any]:
    """The same for supervised lessons of so many steps, on rows that the trainer's own collator understands."""
    return {
        **quiet_arguments(scratch, seed),
        "data_seed": seed,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "max_grad_norm": 1.0,
        "remove_unused_columns": False,
    }


def on_one_device(arguments: A) -> A:
    """The same TrainingArguments for one device, however many GPUs this process sees.

    Otherwise transformers' Trainer wraps the model in torch's DataParallel, which has none of the model's methods.
    """
    _ = arguments.device  # counts the GPUs; first asked for later, it would count them again
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
