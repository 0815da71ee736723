"""tilec in torch: operators with gradients, modules, quantising, and kernels of one's own as operators.

import tilec.torch
y = tilec.torch.na2d(query, key, value, kernel_size=7)      # differentiable; torch.compile and export take it
print(tilec.torch.quantize_(model, "u4"))                   # replaces the linear layers of a model
Every operator is registered with torch.library, as torch.ops.tilec.*: what they take and return is described
in tilec.ops. Tensors of the CPU run there, or on the target that is set; CUDA tensors on their GPU.
"""

if __name__ != "tilec.torch":
    raise ImportError(f"tilec.torch imported a second time, as {__name__!r}")

try:
    import torch as _torch  # noqa: F401  (the first import, so that its absence is told in our words)
except ImportError as error:
    raise ImportError("tilec.torch needs torch, which is not installed: pip install torch") from error

from tilec.torch.attention import attention as attention
from tilec.torch.attention import na1d as na1d
from tilec.torch.attention import na2d as na2d
from tilec.torch.attention import na3d as na3d
from tilec.torch.attention import neighborhood_attention as neighborhood_attention
from tilec.torch.convolutions import causal_conv1d as causal_conv1d
from tilec.torch.convolutions import depthwise_conv as depthwise_conv
from tilec.torch.convolutions import inception_depthwise_conv as inception_depthwise_conv
from tilec.torch.modules import DepthwiseConv2d as DepthwiseConv2d
from tilec.torch.modules import InceptionDepthwiseConv as InceptionDepthwiseConv
from tilec.torch.modules import LongConv as LongConv
from tilec.torch.modules import NeighborhoodAttention1D as NeighborhoodAttention1D
from tilec.torch.modules import NeighborhoodAttention2D as NeighborhoodAttention2D
from tilec.torch.modules import NeighborhoodAttention3D as NeighborhoodAttention3D
from tilec.torch.own import op as op
from tilec.torch.products import linear as linear
from tilec.torch.products import matmul as matmul
from tilec.torch.products import quantize_activation as quantize_activation
from tilec.torch.quantized import QuantizedLinear as QuantizedLinear
from tilec.torch.quantized import quantize_ as quantize_
from tilec.torch.sequences import butterfly_conv as butterfly_conv
from tilec.torch.sequences import fft_conv as fft_conv
from tilec.torch.sequences import tame_kernel as tame_kernel
from tilec.torch.spacings import dcls_kernel as dcls_kernel
from tilec.torch.sparse import SparseLinear as SparseLinear
