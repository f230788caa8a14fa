"""Number formats of a forward pass, and settings of torch for a process that computes. After: train, predict."""

import contextlib
import os
from collections.abc import Iterator

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`, `fp32`, `bf16` or `fp16` -> what to compute in; float32 stands for no autocast."""
    if name == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return PRECISIONS[name]


@contextlib.contextmanager
def numerics(device: torch.device, *, exact: bool) -> Iterator[None]:
    """Settings of torch that belong to the whole process, for a time; its random state comes back too."""
    on_gpu = device.type == "cuda"
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    precision = torch.get_float32_matmul_precision()
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        try:
            if on_gpu:
                if exact:
                    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
                torch.backends.cudnn.benchmark = not exact
                torch.set_float32_matmul_precision("highest" if exact else "high")
            torch.use_deterministic_algorithms(exact)
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]
            torch.set_float32_matmul_precision(precision)
