/* Bytes times weights, the three ways; each exact. See `dot` in kernels.h. */

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

static inline int32_t four_bytes(const uint8_t *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    return four;
}

/* 16 channels of a block for one or two rows. Bytes are widened to 16 bits first: the shorter
   `vpmaddubsw` clips its sums at 32,767, in silence. */
AVX2 static inline __attribute__((always_inline)) void tile_avx2(const uint8_t *x, int64_t stride,
                                                                 const int8_t *w, int64_t groups,
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
VNNI static inline __attribute__((always_inline)) void
tile_vnni(const uint8_t *x, int64_t stride, const int8_t *w, int64_t groups, const int rows,
          int32_t *sums, const int8_t *ahead, int64_t step)
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
