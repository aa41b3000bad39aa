/* Bytes times 4-bit weights where there is no `vpdpbusd`; see `dot_nibbles` in kernels.h, and
   vnni.h. A product of a nibble and a byte, added up over a group, is exact; the few operations on
   floats behind it are the same and in the same order everywhere. */

static void dot_nibbles_portable(const int8_t *x, const uint8_t *w, int64_t groups,
                                 int rows, const float *steps, const int32_t *row_sums, int nested,
                                 float *sums, const int8_t *ahead, int64_t step)
{
    memset(sums, 0, sizeof(float) * CHANNELS * rows);
    for (int r = 0; r < rows; r++, sums += CHANNELS, steps++, row_sums++)
        for (int64_t g = 0; g < groups; g++) {
            const uint8_t *four = w + g * (nested ? NESTED_BYTES : NIBBLE_BYTES);
            const int8_t *in = x + g * TALL * GROUP + r * GROUP;
            int32_t whole[CHANNELS] = {0};
            for (int f = 0; f < HALF; f += 4)
                for (int c = 0; c < CHANNELS; c++, four += 4)
                    for (int i = 0; i < 4; i++)
                        whole[c] += in[f + i] * (four[i] & 15) + in[HALF + f + i] * (four[i] >> 4);
            const float of_row = row_sum_at(row_sums + g * TALL);
            for (int c = 0; c < CHANNELS; c++) {
                float scale, minimum;
                scale_and_minimum(w, groups, g, nested, c, &scale, &minimum);
                const float scaled = fused_number((float)whole[c] * steps[g * TALL], scale, sums[c]);
                sums[c] = fused_number(of_row, minimum, scaled);
            }
        }
}

#ifdef __x86_64__
/* Eight scales, or minima: in fp16, or bytes times fp16. */
AVX2 static inline __attribute__((always_inline)) __m256 scales_avx2(const uint8_t *own,
                                                                     const uint8_t *super,
                                                                     const int nested)
{
    if (!nested)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)own));
    const __m256i whole = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)own));
    return _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)super)),
                         _mm256_cvtepi32_ps(whole));
}

/* 16 channels of a block, from channel `first` on, for one or two rows. `vpmaddubsw` and the sum of
   a group's eight of them stay in 16 bits: 8 x 2 x 15 x 127 = 30,480. */
AVX2 static inline __attribute__((always_inline)) void
tile_nibbles_avx2(const int8_t *x, const uint8_t *w, int64_t groups,
                  const int rows, const int first, const float *steps, const int32_t *row_sums,
                  const int nested, float *sums)
{
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 all[2][2]; /* each: 8 channels */
    for (int r = 0; r < rows; r++)
        all[r][0] = all[r][1] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t *fours = w + g * (nested ? NESTED_BYTES : NIBBLE_BYTES) + 4 * first;
        __m256i sum[2][2]; /* each: 8 channels, 2 sums of each */
        for (int r = 0; r < rows; r++)
            sum[r][0] = sum[r][1] = _mm256_setzero_si256();
        for (int f = 0; f < HALF / 4; f++)
            for (int q = 0; q < 2; q++) {
                const uint8_t *from = fours + f * 4 * CHANNELS + 32 * q;
                const __m256i bytes = _mm256_loadu_si256((const __m256i *)from);
                const __m256i weights[2] = {
                    _mm256_and_si256(bytes, low),
                    _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low),
                };
                for (int half = 0; half < 2; half++)
                    for (int r = 0; r < rows; r++) {
                        const int8_t *four = x + g * TALL * GROUP + r * GROUP + half * HALF + 4 * f;
                        const __m256i in = _mm256_set1_epi32(four_bytes(four));
                        sum[r][q] =
                            _mm256_add_epi16(sum[r][q], _mm256_maddubs_epi16(weights[half], in));
                    }
            }
        for (int q = 0; q < 2; q++) {
            const uint8_t *own = own_scales(w, g, nested, first + 8 * q);
            const uint8_t *super = super_scales(w, groups, g, first + 8 * q);
            const __m256 scale = scales_avx2(own, super, nested);
            const __m256 minimum = scales_avx2(own + CHANNELS * (nested ? 1 : 2),
                                               super + 2 * CHANNELS, nested);
            for (int r = 0; r < rows; r++) {
                const __m256 whole = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[r][q], ones));
                const __m256 stepped = _mm256_mul_ps(whole, _mm256_set1_ps(steps[g * TALL + r]));
                const __m256 of_row = _mm256_set1_ps(row_sum_at(row_sums + g * TALL + r));
                all[r][q] = _mm256_fmadd_ps(of_row, minimum,
                                            _mm256_fmadd_ps(stepped, scale, all[r][q]));
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < 2; q++)
            _mm256_storeu_ps(sums + r * CHANNELS + 8 * q, all[r][q]);
}

AVX2 static inline __attribute__((always_inline)) void
tiles_nibbles_avx2(const int8_t *x, const uint8_t *w, int64_t groups, int rows,
                   const float *steps, const int32_t *row_sums, const int nested, float *sums)
{
    for (int c = 0; c < CHANNELS; c += 16) {
        int r = 0;
        for (; r + 2 <= rows; r += 2)
            tile_nibbles_avx2(x + r * GROUP, w, groups, 2, c, steps + r,
                              row_sums + r, nested, sums + r * CHANNELS + c);
        if (r < rows)
            tile_nibbles_avx2(x + r * GROUP, w, groups, 1, c, steps + r,
                              row_sums + r, nested, sums + r * CHANNELS + c);
    }
}

AVX2 static void dot_nibbles_avx2(const int8_t *x, const uint8_t *w, int64_t groups,
                                  int rows, const float *steps, const int32_t *row_sums,
                                  int nested, float *sums, const int8_t *ahead, int64_t step)
{
    if (nested)
        tiles_nibbles_avx2(x, w, groups, rows, steps, row_sums, 1, sums);
    else
        tiles_nibbles_avx2(x, w, groups, rows, steps, row_sums, 0, sums);
}
#endif
