/* Bytes times weights where there is no `vpdpbusd`; exact. See `dot` and `dot_groups` in kernels.h,
   and vnni.h. */

static void dot_portable(const uint8_t *x, int64_t stride, const int8_t *w, int64_t fours,
                         int rows, int32_t *sums, const int8_t *ahead, int64_t step)
{
    memset(sums, 0, sizeof(int32_t) * CHANNELS * rows);
    for (int r = 0; r < rows; r++, sums += CHANNELS)
        for (int64_t g = 0; g < fours; g++) {
            const uint8_t *in = x + r * stride + 4 * g;
            const int8_t *four = w + g * 4 * CHANNELS;
            for (int c = 0; c < CHANNELS; c++, four += 4)
                sums[c] += in[0] * four[0] + in[1] * four[1] + in[2] * four[2] + in[3] * four[3];
        }
}

static void dot_groups_portable(const int8_t *x, const uint8_t *w, int64_t groups,
                                int rows, const float *steps, const int32_t *offsets, int fp16,
                                float *sums, const int8_t *ahead, int64_t step)
{
    memset(sums, 0, sizeof(float) * CHANNELS * rows);
    for (int r = 0; r < rows; r++, sums += CHANNELS, steps++, offsets++)
        for (int64_t g = 0; g < groups; g++) {
            const uint8_t *of_group = w + g * GROUP_BYTES, *four = of_group;
            const int8_t *in = x + g * TALL * GROUP + r * GROUP;
            int32_t whole[CHANNELS];
            for (int c = 0; c < CHANNELS; c++)
                whole[c] = offsets[g * TALL];
            for (int f = 0; f < GROUP / 4; f++, in += 4)
                for (int c = 0; c < CHANNELS; c++, four += 4)
                    whole[c] +=
                        in[0] * four[0] + in[1] * four[1] + in[2] * four[2] + in[3] * four[3];
            const uint8_t *scales = of_group + GROUP * CHANNELS;
            for (int c = 0; c < CHANNELS; c++) {
                const float scale = fp16 ? fp16_at(scales + 2 * c) : bf16_at(scales + 2 * c);
                sums[c] = fused_number((float)whole[c] * steps[g * TALL], scale, sums[c]);
            }
        }
}

#ifdef __x86_64__
#include <immintrin.h>

static inline int32_t four_bytes(const void *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    return four;
}

/* 16 channels of a block for one or two rows. Bytes are widened to 16 bits first: the shorter
   `vpmaddubsw` clips its sums at 32,767, in silence. */
AVX2 static inline __attribute__((always_inline)) void tile_avx2(const uint8_t *x, int64_t stride,
                                                                 const int8_t *w, int64_t fours,
                                                                 const int rows, int32_t *sums)
{
    __m256i sum[2][4]; /* each: 4 channels, 2 sums of each */
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < 4; q++)
            sum[r][q] = _mm256_setzero_si256();
    for (int64_t g = 0; g < fours; g++, w += 4 * CHANNELS) {
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

AVX2 static void dot_avx2(const uint8_t *x, int64_t stride, const int8_t *w, int64_t fours,
                          int rows, int32_t *sums, const int8_t *ahead, int64_t step)
{
    for (int c = 0; c < CHANNELS; c += 16) {
        int r = 0;
        for (; r + 2 <= rows; r += 2)
            tile_avx2(x + r * stride, stride, w + 4 * c, fours, 2, sums + r * CHANNELS + c);
        if (r < rows)
            tile_avx2(x + r * stride, stride, w + 4 * c, fours, 1, sums + r * CHANNELS + c);
    }
}

/* 16 channels of a block for one or two rows. */
AVX2 static inline __attribute__((always_inline)) void
tile_groups_avx2(const int8_t *x, const uint8_t *w, const uint8_t *scales,
                 int64_t groups, const int rows, const float *steps, const int32_t *offsets,
                 int fp16, float *sums)
{
    __m256 all[2][2]; /* each: 8 channels */
    for (int r = 0; r < rows; r++)
        all[r][0] = all[r][1] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++, w += GROUP_BYTES, scales += GROUP_BYTES) {
        __m256i sum[2][4]; /* each: 4 channels, 2 sums of each */
        for (int r = 0; r < rows; r++)
            for (int q = 0; q < 4; q++)
                sum[r][q] = _mm256_setzero_si256();
        for (int f = 0; f < GROUP / 4; f++) {
            __m256i in[2];
            for (int r = 0; r < rows; r++) {
                const int8_t *four = x + g * TALL * GROUP + r * GROUP + 4 * f;
                const __m128i bytes = _mm_cvtsi32_si128(four_bytes(four));
                in[r] = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(bytes));
            }
            for (int q = 0; q < 4; q++) {
                const uint8_t *from = w + f * 4 * CHANNELS + 16 * q;
                const __m256i weights =
                    _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
                for (int r = 0; r < rows; r++)
                    sum[r][q] = _mm256_add_epi32(sum[r][q], _mm256_madd_epi16(in[r], weights));
            }
        }
        for (int q = 0; q < 2; q++) {
            const __m128i bits = _mm_loadu_si128((const __m128i *)(scales + 16 * q));
            const __m256i widened = _mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
            const __m256 scale = fp16 ? _mm256_cvtph_ps(bits) : _mm256_castsi256_ps(widened);
            for (int r = 0; r < rows; r++) {
                const __m256i both = _mm256_hadd_epi32(sum[r][2 * q], sum[r][2 * q + 1]);
                const __m256i whole = _mm256_add_epi32(_mm256_permute4x64_epi64(both, 0xD8),
                                                       _mm256_set1_epi32(offsets[g * TALL + r]));
                const __m256 step = _mm256_set1_ps(steps[g * TALL + r]);
                all[r][q] =
                    _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(whole), step), scale, all[r][q]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < 2; q++)
            _mm256_storeu_ps(sums + r * CHANNELS + 8 * q, all[r][q]);
}

AVX2 static void dot_groups_avx2(const int8_t *x, const uint8_t *w, int64_t groups,
                                 int rows, const float *steps, const int32_t *offsets, int fp16,
                                 float *sums, const int8_t *ahead, int64_t step)
{
    for (int c = 0; c < CHANNELS; c += 16) {
        const uint8_t *weights = w + 4 * c, *scales = w + GROUP * CHANNELS + 2 * c;
        int r = 0;
        for (; r + 2 <= rows; r += 2)
            tile_groups_avx2(x + r * GROUP, weights, scales, groups, 2,
                             steps + r, offsets + r, fp16,
                             sums + r * CHANNELS + c);
        if (r < rows)
            tile_groups_avx2(x + r * GROUP, weights, scales, groups, 1,
                             steps + r, offsets + r, fp16,
                             sums + r * CHANNELS + c);
    }
}
#endif
