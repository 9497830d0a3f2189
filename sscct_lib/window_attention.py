"""Exact window attention on the processor, a few windows at a time, so that the attention weights stay in its cache."""

from typing import Any

import torch
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor, nn

AT_ONCE = 2**20  # attention weights in work; 4 MB in 32 bits


class PiecewiseAttention(WindowAttention):
    """MONAI's window attention with the same weights and values, in less time and memory on the processor.

    MONAI keeps the weights of all windows for the way back: at windows of 7 voxels 343 numbers for each voxel and
    head, several times over. Most of its time goes into memory. Here they are computed for a few windows at a time and
    once more on the way back (Dao T et al. FlashAttention. NeurIPS 2022). On a GPU it is MONAI's own.
    """

    relative_position_index: Tensor

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens (windows * B, N, C), with masks (windows, N, N) to add or none, to (windows * B, N, C)."""
        if x.device.type != "cpu":
            return super().forward(x, mask)  # type: ignore[no-untyped-call,no-any-return]
        n_windows, n_tokens, n_features = x.shape
        parts = self.qkv(x).reshape(n_windows, n_tokens, 3, self.num_heads, n_features // self.num_heads)
        q, k, v = (part.contiguous() for part in parts.permute(2, 0, 3, 1, 4))
        pairs = self.relative_position_index[:n_tokens, :n_tokens].reshape(-1)
        bias = self.relative_position_bias_table[pairs].reshape(n_tokens, n_tokens, -1).permute(2, 0, 1).contiguous()
        attended = _Attention.apply(q * self.scale, k, v, bias, mask)  # type: ignore[no-untyped-call]
        mixed: Tensor = self.proj(attended.transpose(1, 2).reshape(n_windows, n_tokens, n_features))
        return mixed


def attend_piecewise(encoder: nn.Module) -> None:
    """Let every window attention of an encoder work piecewise; its parameters and their names stay."""
    for module in encoder.modules():
        if type(module) is WindowAttention:
            module.__class__ = PiecewiseAttention


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ + bias + mask) v, for (windows, heads, N, C), (heads, N, N) and (masks, N, N)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        result = torch.empty_like(q)
        for piece in _pieces(q):
            result[piece] = _weights(q, k, bias, mask, piece) @ v[piece]
        ctx.save_for_backward(q, k, v, bias, result)
        ctx.mask = mask
        return result

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        q, k, v, bias, result = ctx.saved_tensors
        dq, dk, dv, dbias = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), torch.zeros_like(bias)
        # What the softmax takes off each row: the mean of the weights' gradients, weighted by the weights.
        means = (gradient * result).sum(-1, keepdim=True)
        for piece in _pieces(q):
            weights = _weights(q, k, bias, ctx.mask, piece)
            dv[piece] = weights.transpose(-2, -1) @ gradient[piece]
            dscores = (gradient[piece] @ v[piece].transpose(-2, -1)).sub_(means[piece]).mul_(weights)
            dq[piece] = dscores @ k[piece]
            dk[piece] = dscores.transpose(-2, -1) @ q[piece]
            dbias += dscores.sum(0)
        return dq, dk, dv, dbias, None


def _pieces(q: Tensor) -> list[slice]:
    n_windows, n_heads, n_tokens, _ = q.shape
    step = max(1, AT_ONCE // (n_heads * n_tokens**2))
    return [slice(start, min(start + step, n_windows)) for start in range(0, n_windows, step)]


def _weights(q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None, piece: slice) -> Tensor:
    scores = (q[piece] @ k[piece].transpose(-2, -1)).add_(bias)
    if mask is not None:
        # The windows of a scan follow each other, and each scan of a batch has the same masks.
        scores.add_(mask[torch.arange(piece.start, piece.stop) % len(mask)].unsqueeze(1))
    return torch.softmax(scores, -1)
