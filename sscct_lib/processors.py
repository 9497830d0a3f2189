"""Training on processors: 16 bits where they are right, and memory that is not given back after each step."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# glibc asks the system for every large array anew, which then hands out its pages one by one; half the time of a
# training step can go there. So a process keeps what it has had, in large pages.
KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def processor_at_32_bits() -> torch.autocast:
    """Open a context in which a processor computes with 32 bits; what a GPU does stays."""
    return torch.autocast("cpu", enabled=False)


class Convolution(nn.Conv3d):
    """A convolution that stays at 32 bits where the processor's 16 are wrong.

    oneDNN 3 in PyTorch 2.13 reads and writes beside the gradient of the kernel where a side of the input is
    no larger than the kernel. `tests/test_processors.py` holds the rule to PyTorch's own 32 bits.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W)."""
        sides = zip(input.shape[2:], self.kernel_size, strict=True)
        if not any(1 < kernel >= side for side, kernel in sides):
            return super().forward(input)
        with processor_at_32_bits():
            return super().forward(input.float() if input.device.type == "cpu" else input)


def convolve_rightly(encoder: nn.Module) -> None:
    """Let every 3D convolution of an encoder know its small inputs; its parameters and their names stay."""
    for module in encoder.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Convolution


def multiplies_bf16() -> bool:
    """Tell whether this processor multiplies numbers of 16 bits (bf16) itself; others are slower with them."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let processes that are started inside keep the memory that they free (glibc; elsewhere this changes nothing)."""
    before = {name: os.environ.get(name) for name in KEPT}
    os.environ.update({name: value for name, value in KEPT.items() if name not in os.environ})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
