"""Operators written in the language, and their array-facing functions.

from tilec import ops
y = ops.linear(x, ops.quantize(w, "u4"), bias, activation="gelu")
"""

if __name__ != "tilec.ops":
    raise ImportError(f"{__name__!r} is the source folder of tilec.ops: import that")

from tilec.ops.activations import quantize_activation as quantize_activation
from tilec.ops.attention import attention as attention
from tilec.ops.attention import attention_backward as attention_backward
from tilec.ops.attention import merge_attentions as merge_attentions
from tilec.ops.butterfly_conv import butterfly_conv as butterfly_conv
from tilec.ops.butterfly_conv import butterfly_conv_backward as butterfly_conv_backward
from tilec.ops.callers import no_copies as no_copies
from tilec.ops.causal_conv import causal_conv1d as causal_conv1d
from tilec.ops.dcls import dcls_kernel as dcls_kernel
from tilec.ops.dcls import dcls_kernel_backward as dcls_kernel_backward
from tilec.ops.depthwise import depthwise_conv as depthwise_conv
from tilec.ops.depthwise_backward import depthwise_conv_backward as depthwise_conv_backward
from tilec.ops.fft_conv import fft_conv as fft_conv
from tilec.ops.fft_conv import fft_conv_spectrum as fft_conv_spectrum
from tilec.ops.fft_conv_backward import fft_conv_backward as fft_conv_backward
from tilec.ops.fft_conv_taps import tame_kernel as tame_kernel
from tilec.ops.fft_conv_taps import tame_kernel_backward as tame_kernel_backward
from tilec.ops.inception import inception_depthwise_conv as inception_depthwise_conv
from tilec.ops.linear import linear as linear
from tilec.ops.matmul import matmul as matmul
from tilec.ops.neighborhood import na1d as na1d
from tilec.ops.neighborhood import na2d as na2d
from tilec.ops.neighborhood import na3d as na3d
from tilec.ops.neighborhood import neighborhood_attention as neighborhood_attention
from tilec.ops.neighborhood import neighborhood_attention_backward as neighborhood_attention_backward
from tilec.ops.quantize import quantize as quantize
from tilec.ops.reparam import BatchNorm as BatchNorm
from tilec.ops.reparam import Branch as Branch
from tilec.ops.reparam import merge_reparam as merge_reparam
from tilec.ops.sparse_weight import SparseWeight as SparseWeight
from tilec.ops.sparse_weight import prune_2_4 as prune_2_4
from tilec.ops.sparse_weight import sparsify as sparsify
from tilec.ops.weight import QuantizedWeight as QuantizedWeight
