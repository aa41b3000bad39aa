/* Linear layers with 8-bit weights, y = x W^T + b, for model/quantize.py.

   Weights have one scale per output channel. Each row of x becomes unsigned bytes with a scale and
   a zero point of its own, the products are summed exactly in 32-bit integers, and only then is
   anything rounded. So a row's result depends neither on its neighbours nor on the number of
   threads, and every instruction set gives the same bits: keep -ffp-contract=off.

   Layout of the weights: blocks of 64 output channels, read from front to back,

       block (groups, 64, 4): for each group of 4 inputs, those 4 weights of channel 0, of 1, ...

   because `vpdpbusd` multiplies 16 channels x 4 inputs of weights by 4 inputs of x, repeated, and
   adds them up in 16 sums. Channels are padded to whole blocks, inputs to whole groups (zeros). */

#include <stdlib.h>

#include "exp2.h"

#define VERSION 1       /* of this interface; model/kernels/int8.py expects it */
#define CHANNELS 64     /* of a block */
#define ROWS 4          /* of a tile: its 4 x 64 sums fill 16 of AVX-512's 32 registers */
#define MIN_WORK 100000 /* products below which waking threads costs more than it saves */

typedef struct {
    const int8_t *weight;
    const float *scale;     /* of each channel; this, sums and bias are padded as channels are */
    const int32_t *sums;    /* of each channel's weights, to take the zero point out */
    const float *bias;
    int64_t in_features, out_features;
} Weights;

/* Bytes u and (step, zero) with x ~ step * (u - zero); 0 is kept exactly. A row with an infinity
   or a NaN gets the step NaN, which makes every output of it NaN, as in floating point. */
static inline __attribute__((always_inline)) void
quantize_body(const float *restrict x, int64_t n, uint8_t *restrict u, float *step, int32_t *zero)
{
    float low = 0, high = 0, not_finite = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : not_finite)
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        not_finite += x[i] * 0.0f;
    }
    *step = not_finite == 0 ? high / 255 - low / 255 : NAN;
    *zero = 0;
    if (!(*step > 1e-30f)) { /* all zero, so small that 1 / step overflows, or not finite */
        *step = not_finite == 0 ? 0 : NAN;
        memset(u, 0, n);
        return;
    }
    const float inverse = 1 / *step;
    const float offset = rintf(-low * inverse);
    for (int64_t i = 0; i < n; i++) {
        float v = rintf(x[i] * inverse) + offset;
        v = v < 0 ? 0 : v; /* the ends of a symmetric range round to 0 and 256 */
        v = v > 255 ? 255 : v;
        u[i] = (uint8_t)(int32_t)v;
    }
    *zero = (int32_t)offset;
}

static inline __attribute__((always_inline)) void
finish_body(const Weights *w, int64_t first, int64_t count, const int32_t *restrict sums,
            float step, int32_t zero, float *restrict y)
{
    const int32_t *correction = w->sums + first;
    const float *scale = w->scale + first, *bias = w->bias + first;
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)(sums[i] - zero * correction[i]) * (step * scale[i]) + bias[i];
}

/* x / (1 + exp(-2 t)) is GELU's tanh form x (1 + tanh t) / 2, with t = sqrt(2 / pi) (x + 0.044715
   x^3); within 1e-6 of the exact value. */
static inline __attribute__((always_inline)) void gelu_body(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        /* -2 t / ln 2 */
        float z = x[i] * (-2.3022082f - 0.10294324f * x[i] * x[i]);
        z = z < -126 ? -126 : z;
        z = z > 126 ? 126 : z;
        x[i] = x[i] / (1 + exp2_within(z));
    }
}

/* Each path has three functions that loop, and `dot`: `rows` (up to ROWS) rows of x, `stride` bytes
   apart, times one block of weights, into sums (rows, CHANNELS). Meanwhile it may fetch `ahead`
   from memory, `step` bytes for each group of inputs. */
typedef struct {
    void (*quantize)(const float *, int64_t, uint8_t *, float *, int32_t *);
    void (*dot)(const uint8_t *x, int64_t stride, const int8_t *w, int64_t groups, int rows,
                int32_t *sums, const int8_t *ahead, int64_t step);
    void (*finish)(const Weights *, int64_t, int64_t, const int32_t *, float, int32_t, float *);
    void (*gelu)(float *, int64_t);
} Path;

/* The plain loops above, vectorized by the compiler for one instruction set. */
#define LOOPS(name, attributes)                                                                   \
    attributes static void quantize_##name(const float *x, int64_t n, uint8_t *u, float *step,    \
                                           int32_t *zero)                                         \
    {                                                                                             \
        quantize_body(x, n, u, step, zero);                                                       \
    }                                                                                             \
    attributes static void finish_##name(const Weights *w, int64_t first, int64_t count,          \
                                         const int32_t *sums, float step, int32_t zero, float *y) \
    {                                                                                             \
        finish_body(w, first, count, sums, step, zero, y);                                        \
    }                                                                                             \
    attributes static void gelu_##name(float *x, int64_t n) { gelu_body(x, n); }

LOOPS(portable, )

static void dot_portable(const uint8_t *x, int64_t stride, const int8_t *w, int64_t groups,
                         int rows, int32_t *sums, const int8_t *ahead, int64_t step)
{
    memset(sums, 0, sizeof(int32_t) * CHANNELS * rows);
    for (int r = 0; r < rows; r++, sums += CHANNELS)
        for (int64_t g = 0; g < groups; g++) {
            const uint8_t *in = x + r * stride + 4 * g;
            const int8_t *four = w + g * 4 * CHANNELS;
            for (int c = 0; c < CHANNELS; c++, four += 4)
                sums[c] += in[0] * four[0] + in[1] * four[1] + in[2] * four[2] + in[3] * four[3];
        }
}

#ifdef __x86_64__
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline))

LOOPS(avx2, AVX2)
LOOPS(vnni, VNNI)

static inline int32_t four_bytes(const uint8_t *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    return four;
}

/* 16 channels of a block for one or two rows. Bytes are widened to 16 bits first: the shorter
   `vpmaddubsw` clips its sums at 32,767, in silence. */
AVX2 INLINE void tile_avx2(const uint8_t *x, int64_t stride, const int8_t *w, int64_t groups,
                           const int rows, int32_t *sums)
{
    __m256i sum[2][4]; /* each: 4 channels, 2 sums of each */
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < 4; q++)
            sum[r][q] = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; g++, w += 4 * CHANNELS) {
        __m256i in[2];
        for (int r = 0; r < rows; r++) {
            const __m128i bytes = _mm_cvtsi32_si128(four_bytes(x + r * stride + 4 * g));
            in[r] = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(bytes));
        }
        for (int q = 0; q < 4; q++) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(w + 16 * q));
            const __m256i weights = _mm256_cvtepi8_epi16(bytes);
            for (int r = 0; r < rows; r++)
                sum[r][q] = _mm256_add_epi32(sum[r][q], _mm256_madd_epi16(in[r], weights));
        }
    }
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < 4; q += 2) {
            /* The two sums of a channel added; then 8 channels in their order. */
            const __m256i both = _mm256_hadd_epi32(sum[r][q], sum[r][q + 1]);
            _mm256_storeu_si256((__m256i *)(sums + r * CHANNELS + 4 * q),
                                _mm256_permute4x64_epi64(both, 0xD8));
        }
}

AVX2 static void dot_avx2(const uint8_t *x, int64_t stride, const int8_t *w, int64_t groups,
                          int rows, int32_t *sums, const int8_t *ahead, int64_t step)
{
    for (int c = 0; c < CHANNELS; c += 16) {
        int r = 0;
        for (; r + 2 <= rows; r += 2)
            tile_avx2(x + r * stride, stride, w + 4 * c, groups, 2, sums + r * CHANNELS + c);
        if (r < rows)
            tile_avx2(x + r * stride, stride, w + 4 * c, groups, 1, sums + r * CHANNELS + c);
    }
}

/* A block for a constant number of rows, so that the sums stay in registers. */
VNNI INLINE void tile_vnni(const uint8_t *x, int64_t stride, const int8_t *w, int64_t groups,
                           const int rows, int32_t *sums, const int8_t *ahead, int64_t step)
{
    __m512i sum[ROWS][4];
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < 4; q++)
            sum[r][q] = _mm512_setzero_si512();
    for (int64_t g = 0; g < groups; g++, w += 4 * CHANNELS) {
        __builtin_prefetch(ahead + g * step, 0, 2);
        __m512i weights[4];
        for (int q = 0; q < 4; q++)
            weights[q] = _mm512_loadu_si512(w + 64 * q);
        for (int r = 0; r < rows; r++) {
            const __m512i in = _mm512_set1_epi32(four_bytes(x + r * stride + 4 * g));
            for (int q = 0; q < 4; q++)
                sum[r][q] = _mm512_dpbusd_epi32(sum[r][q], in, weights[q]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < 4; q++)
            _mm512_storeu_si512(sums + r * CHANNELS + 16 * q, sum[r][q]);
}

VNNI static void dot_vnni(const uint8_t *x, int64_t stride, const int8_t *w, int64_t groups,
                          int rows, int32_t *sums, const int8_t *ahead, int64_t step)
{
    switch (rows) {
    case 1: tile_vnni(x, stride, w, groups, 1, sums, ahead, step); break;
    case 2: tile_vnni(x, stride, w, groups, 2, sums, ahead, step); break;
    case 3: tile_vnni(x, stride, w, groups, 3, sums, ahead, step); break;
    default: tile_vnni(x, stride, w, groups, ROWS, sums, ahead, step);
    }
}
#endif

static const Path paths[] = {
    {quantize_portable, dot_portable, finish_portable, gelu_portable},
#ifdef __x86_64__
    {quantize_avx2, dot_avx2, finish_avx2, gelu_avx2},
    {quantize_vnni, dot_vnni, finish_vnni, gelu_vnni},
#endif
};

int int8_version(void) { return VERSION; }

/* The number of paths this processor can run: portable, then AVX2, then AVX-512 with VNNI. */
int int8_paths(void)
{
#ifdef __x86_64__
    if (!__builtin_cpu_supports("avx2"))
        return 1;
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512vnni") ? 3 : 2;
#else
    return 1;
#endif
}

/* GELU of n numbers, in place. */
void int8_gelu(float *x, int64_t n, int path, int threads)
{
    const int64_t part = 16384, parts = (n + part - 1) / part;
#pragma omp parallel for num_threads(threads) schedule(static) if (parts > 4)
    for (int64_t p = 0; p < parts; p++)
        paths[path].gelu(x + p * part, n - p * part < part ? n - p * part : part);
}

/* y (rows, out_features) = x (rows, in_features) W^T + b. Returns 0, or -1 without memory. */
int int8_linear(const Weights *w, const float *x, int64_t rows, float *y, int path, int threads)
{
    const Path *use = &paths[path];
    const int64_t groups = (w->in_features + 3) / 4, stride = 4 * groups;
    const int64_t blocks = (w->out_features + CHANNELS - 1) / CHANNELS, size = CHANNELS * stride;
    const int64_t tiles = (rows + ROWS - 1) / ROWS; /* of a block, each fetching a part of the next */
    float *steps = malloc(rows * (sizeof(float) + sizeof(int32_t) + stride) + 1);
    if (!steps)
        return -1;
    int32_t *zeros = (int32_t *)(steps + rows);
    uint8_t *bytes = (uint8_t *)(zeros + rows);
#pragma omp parallel num_threads(threads) if (rows * w->in_features * w->out_features > MIN_WORK)
    {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) /* padding meets weights of zero: any bytes will do */
            use->quantize(x + r * w->in_features, w->in_features, bytes + r * stride, steps + r,
                          zeros + r);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = b * CHANNELS, left = w->out_features - first;
            int32_t sums[ROWS * CHANNELS];
            const int8_t *block = w->weight + b * size;
            for (int64_t t = 0; t < tiles; t++) {
                const int64_t r = t * ROWS;
                const int tile = (int)(rows - r < ROWS ? rows - r : ROWS);
                use->dot(bytes + r * stride, stride, block, groups, tile, sums,
                         block + size + t * size / tiles, 4 * CHANNELS / tiles);
                for (int i = 0; i < tile; i++)
                    use->finish(w, first, left < CHANNELS ? left : CHANNELS, sums + i * CHANNELS,
                                steps[r + i], zeros[r + i], y + (r + i) * w->out_features + first);
            }
        }
    }
    free(steps);
    return 0;
}
