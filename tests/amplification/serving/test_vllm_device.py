"""What an engine computes in on a GPU, which needs none to be decided."""

from __future__ import annotations

import pytest

from amplification.errors import InputError
from amplification.serving.vllm_device import served_dtype


@pytest.mark.parametrize(
    ("asked", "stored", "beside", "served"),
    [
        ("auto", "float32", True, "bfloat16"),
        ("auto", "float32", False, "float32"),
        ("auto", "float16", True, "float16"),
        ("bfloat16", "float32", True, "bfloat16"),
        ("float32", "bfloat16", False, "float32"),
    ],
)
def test_adapters_beside_a_base_are_served_in_16_bits(asked: str, stored: str, beside: bool, served: str) -> None:
    assert served_dtype(asked, stored, beside) == served


def test_single_precision_beside_a_base_is_refused() -> None:
    with pytest.raises(InputError, match=r"serving\.dtype.*16 bits"):
        served_dtype("float32", "bfloat16", True)
