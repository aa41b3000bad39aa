/* Attention of one head, for the instruction set that paths.c describes. */

typedef uint32_t whole __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

/* LANES cells from number `at` on. */
INLINE vec load(const void *cells, int64_t at, const int half)
{
    if (!half)
        return *(const vec *)((const float *)cells + at);
    const shorts bits = *(const shorts *)((const uint16_t *)cells + at);
    return (vec)(__builtin_convertvector(bits, whole) << 16);
}

/* Asks memory for a line of cells; processors do not guess which block comes next. */
INLINE void fetch(const void *cells, int64_t at, const int half)
{
    __builtin_prefetch((const char *)cells + at * (half ? 2 : 4), 0, 2);
}

/* Scores of `rows` rows with `count` blocks of keys, into scores (rows, width). A single row, whose
   time is that of memory, fetches the blocks `ahead` meanwhile. */
INLINE void dots(const float *q, int64_t stride, const Head *h, const int32_t *blocks,
                 const int32_t *ahead, const int rows, const int count, const int half,
                 float *scores, int64_t width)
{
    vec sum[ROWS][4 * EACH];
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < count * EACH; b++)
            sum[r][b] = (vec){0};
    for (int64_t d = 0; d < h->dim; d++) {
        for (int b = 0; rows == 1 && b < count; b++)
            fetch(h->keys, ahead[b] * h->block + d * TOKENS, half);
        for (int b = 0; b < count * EACH; b++) {
            const int64_t block = blocks[b / EACH] * h->block + b % EACH * LANES;
            const vec key = load(h->keys, block + d * TOKENS, half);
            for (int r = 0; r < rows; r++)
                sum[r][b] += q[r * stride + d] * key;
        }
    }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < count * EACH; b++)
            *(vec *)(scores + r * width + b * LANES) = sum[r][b];
}

/* Scores to weights, in place; those from `count` to `width` become 0. Returns 1 / their sum. */
INLINE float softmax(float *restrict scores, int64_t count, int64_t width, float scale)
{
    float largest = scores[0];
#pragma omp simd reduction(max : largest)
    for (int64_t t = 0; t < count; t++)
        largest = scores[t] > largest ? scores[t] : largest;
    for (int64_t t = 0; t < count; t++) {
        const float z = (scores[t] - largest) * scale;
        scores[t] = exp2_within(z < -126 ? -126 : z);
    }
    for (int64_t t = count; t < width; t++)
        scores[t] = 0;
    vec sums[EACH]; /* 16 sums on every path: the order is part of the result */
    for (int e = 0; e < EACH; e++)
        sums[e] = (vec){0};
    for (int64_t t = 0; t < width; t += 16)
        for (int e = 0; e < EACH; e++)
            sums[e] += *(const vec *)(scores + t + e * LANES);
    return 1 / total(sums);
}

/* 16 * `parts` dimensions, from `d` on, of the weighted sums of values. Row r sees `seen` + r. */
INLINE void mix(const float *scores, int64_t width, const Head *h, int64_t d, int64_t seen,
                const int rows, const int parts, const int half, const float *factors, float *out,
                int64_t stride)
{
    vec sum[ROWS][4 * EACH];
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < parts * EACH; p++)
            sum[r][p] = (vec){0};
    int64_t t = 0;
    while (t < seen) {
        const int64_t block = h->blocks[t / TOKENS] * h->block + d;
        const int64_t end = seen - t < TOKENS ? seen - t : TOKENS;
        const int64_t ahead = t + 2 * TOKENS <= seen ? h->blocks[t / TOKENS + 1] * h->block + d : block;
        for (int64_t i = 0; i < end; i++, t++) {
            for (int p = 0; rows == 1 && p < parts; p++)
                fetch(h->values, ahead + i * h->dim + p * 16, half);
            for (int p = 0; p < parts * EACH; p++) {
                const vec value = load(h->values, block + i * h->dim + p * LANES, half);
                for (int r = 0; r < rows; r++)
                    sum[r][p] += scores[r * width + t] * value;
            }
        }
    }
    /* A weight of 0 would not do for the others: 0 times NaN is NaN. */
    for (; t < seen + rows - 1; t++) {
        const int64_t at = h->blocks[t / TOKENS] * h->block + t % TOKENS * h->dim + d;
        for (int r = 1; r < rows; r++)
            if (t < seen + r)
                for (int p = 0; p < parts * EACH; p++)
                    sum[r][p] += scores[r * width + t] * load(h->values, at + p * LANES, half);
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < parts * EACH; p++)
            *(vec *)(out + r * stride + d + p * LANES) = sum[r][p] * factors[r];
}

/* `rows` neighbouring tokens, of which the first sees `seen` keys. */
INLINE void queries(const Head *h, const float *q, int64_t seen, const int rows, const int half,
                 float *scores, float *out, int64_t out_stride)
{
    const int64_t blocks = (seen + rows - 1 + TOKENS - 1) / TOKENS, width = blocks * TOKENS;
    const int parts = rows == 1 ? 4 : PARTS; /* at once, so that sums do not wait for each other */
    int64_t b = 0, d = 0;
    for (; b + parts <= blocks; b += parts) {
        const int64_t ahead = b + 2 * parts <= blocks ? b + parts : b;
        dots(q, h->stride, h, h->blocks + b, h->blocks + ahead, rows, parts, half,
             scores + b * TOKENS, width);
    }
    for (; b < blocks; b++)
        dots(q, h->stride, h, h->blocks + b, h->blocks + b, rows, 1, half, scores + b * TOKENS,
             width);
    float factors[ROWS];
    for (int r = 0; r < rows; r++)
        factors[r] = softmax(scores + r * width, seen + r, width, 1.44269504f / sqrtf(h->dim));
    for (; d + 16 * parts <= h->dim; d += 16 * parts)
        mix(scores, width, h, d, seen, rows, parts, half, factors, out, out_stride);
    for (; d < h->dim; d += 16)
        mix(scores, width, h, d, seen, rows, 1, half, factors, out, out_stride);
}

/* Stores the keys and values of `length` new tokens after `start` cached ones, and attends. */
INLINE void head_of(const Head *h, const float *q, const float *k, const float *v, int64_t start,
                    int64_t length, const int half, float *scores, float *out, int64_t out_stride)
{
    for (int64_t i = 0; i < length; i++) {
        const int64_t block = h->blocks[(start + i) / TOKENS] * h->block;
        const int64_t t = (start + i) % TOKENS;
        for (int64_t d = 0; d < h->dim; d++) {
            store(h->keys, block + d * TOKENS + t, k[i * h->stride + d], half);
            store(h->values, block + t * h->dim + d, v[i * h->stride + d], half);
        }
    }
    int64_t i = 0;
    for (; i + ROWS <= length; i += ROWS)
        queries(h, q + i * h->stride, start + i + 1, ROWS, half, scores, out + i * out_stride,
             out_stride);
    for (; i < length; i++)
        queries(h, q + i * h->stride, start + i + 1, 1, half, scores, out + i * out_stride,
             out_stride);
}

ATTRIBUTES static void head(const Head *h, const float *q, const float *k, const float *v,
                            int64_t start, int64_t length, float *scores, float *out,
                            int64_t out_stride)
{
    if (h->half)
        head_of(h, q, k, v, start, length, 1, scores, out, out_stride);
    else
        head_of(h, q, k, v, start, length, 0, scores, out, out_stride);
}
