/* Attention of one head, for the instruction set that LANES, PARTS, PATH and ATTRIBUTES describe;
   see attention.c, which includes this once for each. */

#define vec NAMED(vec, PATH)
#define dots NAMED(dots, PATH)
#define softmax NAMED(softmax, PATH)
#define mix NAMED(mix, PATH)
#define tile NAMED(tile, PATH)
#define head NAMED(head, PATH)
#define INLINE ATTRIBUTES static inline __attribute__((always_inline))
#define EACH (16 / LANES) /* vectors for 16 floats */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Scores of `rows` rows with `blocks` blocks of keys, into scores (rows, width). */
INLINE void dots(const float *q, int64_t stride, const float *keys, int64_t dim, const int rows,
                 const int blocks, float *scores, int64_t width)
{
    vec sum[ROWS][4 * EACH];
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks * EACH; b++)
            sum[r][b] = (vec){0};
    for (int64_t d = 0; d < dim; d++)
        for (int b = 0; b < blocks * EACH; b++) {
            const float *block = keys + b / EACH * dim * KEYS + b % EACH * LANES;
            const vec key = *(const vec *)(block + d * KEYS);
            for (int r = 0; r < rows; r++)
                sum[r][b] += q[r * stride + d] * key;
        }
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < blocks * EACH; b++)
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
    float sum = 0;
    for (int i = 0; i < 16; i++)
        sum += sums[i / LANES][i % LANES];
    return 1 / sum;
}

/* 16 * `parts` dimensions of the weighted sums of values. */
INLINE void mix(const float *scores, int64_t width, const float *values, int64_t dim, int64_t count,
                const int rows, const int parts, const float *factors, float *out, int64_t stride)
{
    vec sum[ROWS][4 * EACH];
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < parts * EACH; p++)
            sum[r][p] = (vec){0};
    for (int64_t t = 0; t < count; t++)
        for (int p = 0; p < parts * EACH; p++) {
            const vec value = *(const vec *)(values + t * dim + p * LANES);
            for (int r = 0; r < rows; r++)
                sum[r][p] += scores[r * width + t] * value;
        }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < parts * EACH; p++)
            *(vec *)(out + r * stride + p * LANES) = sum[r][p] * factors[r];
}

/* `rows` neighbouring tokens, of which the first sees `seen` keys. */
INLINE void tile(const float *q, int64_t stride, const float *keys, const float *values,
                 int64_t dim, int64_t seen, const int rows, float *scores, float *out,
                 int64_t out_stride)
{
    const int64_t count = seen + rows - 1, width = (count + KEYS - 1) / KEYS * KEYS;
    const int blocks = rows == 1 ? 4 : 1; /* at once, so that sums do not wait for each other */
    const int parts = rows == 1 ? 4 : PARTS;
    int64_t t = 0, d = 0;
    for (; t + blocks * KEYS <= width; t += blocks * KEYS)
        dots(q, stride, keys + t * dim, dim, rows, blocks, scores + t, width);
    for (; t < width; t += KEYS)
        dots(q, stride, keys + t * dim, dim, rows, 1, scores + t, width);
    float factors[ROWS];
    for (int r = 0; r < rows; r++)
        factors[r] = softmax(scores + r * width, seen + r, width, 1.44269504f / sqrtf(dim));
    for (; d + 16 * parts <= dim; d += 16 * parts)
        mix(scores, width, values + d, dim, count, rows, parts, factors, out + d, out_stride);
    for (; d < dim; d += 16)
        mix(scores, width, values + d, dim, count, rows, 1, factors, out + d, out_stride);
}

/* `length` new tokens after `start` cached ones: stores their keys and values, and attends. */
ATTRIBUTES static void head(const float *q, const float *k, const float *v, int64_t stride,
                            float *keys, float *values, int64_t dim, int64_t start, int64_t length,
                            float *scores, float *out, int64_t out_stride)
{
    for (int64_t i = 0; i < length; i++) {
        const int64_t t = start + i;
        float *block = keys + t / KEYS * KEYS * dim + t % KEYS;
        for (int64_t d = 0; d < dim; d++)
            block[d * KEYS] = k[i * stride + d];
        memcpy(values + t * dim, v + i * stride, dim * sizeof(float));
    }
    int64_t i = 0;
    for (; i + ROWS <= length; i += ROWS)
        tile(q + i * stride, stride, keys, values, dim, start + i + 1, ROWS, scores,
             out + i * out_stride, out_stride);
    for (; i < length; i++)
        tile(q + i * stride, stride, keys, values, dim, start + i + 1, 1, scores,
             out + i * out_stride, out_stride);
}

#undef vec
#undef dots
#undef softmax
#undef mix
#undef tile
#undef head
#undef INLINE
#undef EACH
#undef LANES
#undef PARTS
#undef PATH
#undef ATTRIBUTES
