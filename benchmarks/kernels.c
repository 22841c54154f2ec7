/* What the machine can do at best: streams over large arrays, every thread its own part. */
#include <math.h>
#include <stddef.h>

/* Reads both and writes the second in place, as an optimizer's step does: 12 bytes a number. */
void stream(ptrdiff_t n, const float *restrict a, float *restrict b) {
#pragma omp parallel for simd schedule(static)
    for (ptrdiff_t i = 0; i < n; i++) b[i] = 0.5f * a[i] + 0.5f * b[i];
}

/* AdamW in one pass: reads g, p, m and v, writes p, m and v: 28 bytes a number. */
void adamw(ptrdiff_t n, const float *restrict g, float *restrict p, float *restrict m, float *restrict v,
           float rate, float b1, float b2, float eps, float decay, ptrdiff_t step) {
    const float first = 1 / (1 - powf(b1, (float)step)), second = 1 / (1 - powf(b2, (float)step));
#pragma omp parallel for simd schedule(static)
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = b1 * m[i] + (1 - b1) * g[i];
        v[i] = b2 * v[i] + (1 - b2) * g[i] * g[i];
        p[i] -= rate * (first * m[i] / (sqrtf(second * v[i]) + eps) + decay * p[i]);
    }
}
