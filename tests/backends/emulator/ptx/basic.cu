// Kernels for the emulator's tests: nvcc -arch=sm_80 -lineinfo -ptx basic.cu
#include <cuda_fp16.h>

extern "C" __global__ void vecadd(const float *x, const float *y, float *z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}

extern "C" __global__ void sum(const float *x, float *out, int n) {
    __shared__ float parts[32];
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0;
        for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
        if (threadIdx.x == 0) atomicAdd(out, v);
    }
}

template <int pad> __device__ void transpose(const float *x, float *y, int n) {
    __shared__ float tile[32][32 + pad];
    int i = blockIdx.x * 32 + threadIdx.x, j = blockIdx.y * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8) tile[threadIdx.y + k][threadIdx.x] = x[(j + k) * n + i];
    __syncthreads();
    i = blockIdx.y * 32 + threadIdx.x, j = blockIdx.x * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += 8) y[(j + k) * n + i] = tile[threadIdx.x][threadIdx.y + k];
}
extern "C" __global__ void transpose_naive(const float *x, float *y, int n) { transpose<0>(x, y, n); }
extern "C" __global__ void transpose_padded(const float *x, float *y, int n) { transpose<1>(x, y, n); }

extern "C" __global__ void softmax(const float *x, float *y, int n) {
    __shared__ float red[8];
    const float *row = x + blockIdx.x * n;
    float top = -INFINITY, total = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) top = fmaxf(top, row[i]);
    for (int d = 16; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    if (threadIdx.x % 32 == 0) red[threadIdx.x / 32] = top;
    __syncthreads();
    for (int w = 0; w < blockDim.x / 32; w++) top = fmaxf(top, red[w]);
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) total += __expf(row[i] - top);
    for (int d = 16; d; d /= 2) total += __shfl_xor_sync(~0u, total, d);
    if (threadIdx.x % 32 == 0) red[threadIdx.x / 32] = total;
    __syncthreads();
    total = 0;
    for (int w = 0; w < blockDim.x / 32; w++) total += red[w];
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[blockIdx.x * n + i] = __expf(row[i] - top) / total;
}

extern "C" __global__ void collatz(const int *x, int *steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int count = 0;
    for (long long v = x[i]; v != 1; count++) v = v % 2 ? 3 * v + 1 : v / 2;
    steps[i] = count;
}

extern "C" __global__ void half_saxpy(const __half2 *x, __half2 *y, __half2 a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __hfma2(a, x[i], y[i]);
}

#include <assert.h>
#include <stdio.h>
extern "C" __global__ void talks(const int *x, int *y) {
    int v = x[threadIdx.x];
    if (v == 3) printf("three at %d\n", threadIdx.x);
    assert(v < 20);
    y[threadIdx.x] = v;
}
