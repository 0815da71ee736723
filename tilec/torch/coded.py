"""What linear layers have in common whose weights are tensors of codes, scales and zeros.

class QuantizedLinear(CodedLinear): ...
"""

from typing import Any

from torch import nn

from tilec.torch.weights import forget


class CodedLinear(nn.Module):
    """y = x @ weight^T + bias, of a weight that is read from buffers and takes no gradient."""

    in_features: int
    out_features: int
    codes: Any
    scales: Any
    zeros: Any
    bias: Any

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves to other devices, and keeps the dtypes of scales and zeros: others would be other weights."""
        held = {name: getattr(self, name) for name in ("scales", "zeros")}
        before = {name: x for name, x in held.items() if x is not None and x.is_floating_point()}
        super()._apply(fn, recurse)
        for name, x in before.items():
            now = getattr(self, name)
            if now.dtype != x.dtype:
                setattr(self, name, x.to(now.device))
        return self

    def _load_from_state_dict(self, *args: Any, **named: Any) -> None:
        super()._load_from_state_dict(*args, **named)
        for held in self.buffers():
            forget(held)
