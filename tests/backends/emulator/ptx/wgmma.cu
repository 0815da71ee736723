// c = a @ b.T in fp16 with f32 sums, TMA loads with the 128-byte swizzle, wgmma, TMA store.
// nvcc -arch=sm_90a -lineinfo -ptx wgmma.cu      a [m, k], b [n, k], c [m, n]; tiles 64 x 64 x 64; grid (n / 64, m / 64)
#include "hopper.cuh"
struct __align__(64) Map { char bytes[128]; };
constexpr int BYTES = 64 * 64 * 2;

// One warpgroup: thread 0 loads two stages ahead, all compute.
extern "C" __global__ void __launch_bounds__(128) matmul(const __grid_constant__ Map a,
        const __grid_constant__ Map b, const __grid_constant__ Map c, int k) {
    __shared__ __align__(1024) __half sa[2][64 * 64], sb[2][64 * 64], sc[64 * 64];
    __shared__ u64 full[2];
    int t = threadIdx.x, row = blockIdx.y * 64, col = blockIdx.x * 64, steps = k / 64;
    if (t == 0) { barrier_init(&full[0], 1); barrier_init(&full[1], 1); barrier_fence(); }
    __syncthreads();
    auto load = [&](int s) {
        expect(&full[s % 2], 2 * BYTES);
        tma_load(sa[s % 2], &a, s * 64, row, &full[s % 2]);
        tma_load(sb[s % 2], &b, s * 64, col, &full[s % 2]);
    };
    if (t == 0) { load(0); if (steps > 1) load(1); }
    float d[32] = {};
    for (int s = 0; s < steps; s++) {
        wait(&full[s % 2], s / 2 % 2);
        wgmma_fence();
        for (int kk = 0; kk < 4; kk++)
            wgmma_m64n64k16(d, descriptor(sa[s % 2] + kk * 16), descriptor(sb[s % 2] + kk * 16), s + kk > 0);
        wgmma_commit();
        wgmma_wait<0>();
        __syncthreads();
        if (t == 0 && s + 2 < steps) load(s + 2);
    }
    int g = t % 32 / 4, q = t % 4 * 2, r = t / 32 * 16 + g;
    for (int j = 0; j < 8; j++)
        for (int h = 0; h < 2; h++)
            *(__half2 *)&sc[(r + 8 * h) * 64 + j * 8 + q] = __floats2half2_rn(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
    fence_proxy();
    __syncthreads();
    if (t == 0) { tma_store(&c, col, row, sc); tma_commit(); tma_wait(); }
}

// Warp-specialised: warpgroup 0 produces (one thread), warpgroup 1 computes and signals one arrival per warp.
extern "C" __global__ void __launch_bounds__(256, 2) specialised(const __grid_constant__ Map a,
        const __grid_constant__ Map b, __half *c, int n, int k) {
    constexpr int STAGES = 3;
    __shared__ __align__(1024) __half sa[STAGES][64 * 64], sb[STAGES][64 * 64];
    __shared__ u64 full[STAGES], empty[STAGES];
    int t = threadIdx.x, row = blockIdx.y * 64, col = blockIdx.x * 64, steps = k / 64;
    if (t == 0) {
        for (int i = 0; i < STAGES; i++) { barrier_init(&full[i], 1); barrier_init(&empty[i], 4); }
        barrier_fence();
    }
    __syncthreads();
    if (t < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (t == 0)
            for (int s = 0; s < steps; s++) {
                int i = s % STAGES;
                wait(&empty[i], (s / STAGES + 1) % 2);
                expect(&full[i], 2 * BYTES);
                tma_load(sa[i], &a, s * 64, row, &full[i]);
                tma_load(sb[i], &b, s * 64, col, &full[i]);
            }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
        t -= 128;
        float d[32] = {};
        for (int s = 0; s < steps; s++) {
            int i = s % STAGES;
            wait(&full[i], s / STAGES % 2);
            wgmma_fence();
            for (int kk = 0; kk < 4; kk++)
                wgmma_m64n64k16(d, descriptor(sa[i] + kk * 16), descriptor(sb[i] + kk * 16), s + kk > 0);
            wgmma_commit();
            wgmma_wait<0>();
            if (t % 32 == 0) arrive(&empty[i]);
        }
        asm volatile("bar.sync 1, 128;");
        int g = t % 32 / 4, q = t % 4 * 2, r = row + t / 32 * 16 + g;
        for (int j = 0; j < 8; j++)
            for (int h = 0; h < 2; h++)
                *(__half2 *)&c[(r + 8 * h) * n + col + j * 8 + q] = __floats2half2_rn(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
    }
}
