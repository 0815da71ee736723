// c = a @ b in fp16 with f32 sums, 64x64x32 tiles, a three-stage cp.async ring, ldmatrix, mma.sync.
// nvcc -arch=sm_80 -lineinfo -ptx hgemm.cu.   m, n multiples of 64, k of 32; 128 threads; grid (n / 64, m / 64)
#include <cuda_fp16.h>
typedef unsigned u32;

__device__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }
__device__ void copy16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}
__device__ void ldmatrix4(u32 *r, const void *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)));
}
__device__ void ldmatrix4_trans(u32 *r, const void *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)));
}
__device__ void mma(float *d, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

constexpr int STAGES = 3, BM = 64, BN = 64, BK = 32, PAD = 8;

extern "C" __global__ void hgemm(const __half *a, const __half *b, __half *c, int m, int n, int k) {
    __shared__ __align__(16) __half sa[STAGES][BM][BK + PAD], sb[STAGES][BK][BN + PAD];
    int t = threadIdx.x, warp = t / 32, lane = t % 32, row0 = blockIdx.y * BM, col0 = blockIdx.x * BN;
    int wm = warp / 2 * 32, wn = warp % 2 * 32;
    float acc[2][4][4] = {};
    auto load = [&](int step, int stage) {
        for (int i = t; i < BM * BK / 8; i += 128)
            copy16(&sa[stage][i / 4][i % 4 * 8], a + (row0 + i / 4) * k + step * BK + i % 4 * 8);
        for (int i = t; i < BK * BN / 8; i += 128)
            copy16(&sb[stage][i / 8][i % 8 * 8], b + (step * BK + i / 8) * n + col0 + i % 8 * 8);
    };
    int steps = k / BK;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) load(s, s);
        asm volatile("cp.async.commit_group;");
    }
    for (int s = 0; s < steps; s++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (s + STAGES - 1 < steps) load(s + STAGES - 1, (s + STAGES - 1) % STAGES);
        asm volatile("cp.async.commit_group;");
        int stage = s % STAGES;
        for (int kk = 0; kk < BK; kk += 16) {
            u32 fa[2][4], fb[2][4];
            for (int i = 0; i < 2; i++) ldmatrix4(fa[i], &sa[stage][wm + i * 16 + lane % 16][kk + lane / 16 * 8]);
            for (int j = 0; j < 2; j++) ldmatrix4_trans(fb[j], &sb[stage][kk + lane % 16][wn + j * 16 + lane / 16 * 8]);
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) mma(acc[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
        }
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++) {
                int r = row0 + wm + i * 16 + lane / 4 + h * 8, q = col0 + wn + j * 8 + lane % 4 * 2;
                *(__half2 *)&c[r * n + q] = __floats2half2_rn(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
            }
}
