/* Attention of one head, for the instruction set that paths.c describes. */

/* Up to ROWS queries that share the keys of a head: neighbours among its tokens and their groups. */
typedef struct {
    const float *q[ROWS];
    float *out[ROWS];
    int64_t seen[ROWS]; /* how many keys each may see; none fewer than the one before */
} Rows;

/* LANES cells from number `at` on. */
INLINE vec load(const void *cells, int64_t at, const int bf16)
{
    if (!bf16)
        return *(const vec *)((const float *)cells + at);
    return bf16_numbers((const uint16_t *)cells + at);
}

/* Asks memory for a line of cells; processors do not guess which block comes next. */
INLINE void fetch(const void *cells, int64_t at, const int bf16)
{
    __builtin_prefetch((const char *)cells + at * (bf16 ? 2 : 4), 0, 2);
}

/* Scores of `rows` rows with `count` blocks of keys, into scores (rows, width). A tile that is not
   full is mostly that of a token which decodes, whose time is that of memory: it fetches the blocks
   `ahead` meanwhile. */
INLINE void dots(const Rows *r, const Head *h, const int32_t *blocks, const int32_t *ahead,
                 const int rows, const int count, const int bf16, float *scores, int64_t width)
{
    vec sum[ROWS][4 * EACH];
    for (int i = 0; i < rows; i++)
        for (int b = 0; b < count * EACH; b++)
            sum[i][b] = (vec){0};
    for (int64_t d = 0; d < h->dim; d++) {
        for (int b = 0; rows < ROWS && b < count; b++)
            fetch(h->keys, ahead[b] * h->block + d * TOKENS, bf16);
        for (int b = 0; b < count * EACH; b++) {
            const int64_t block = blocks[b / EACH] * h->block + b % EACH * LANES;
            const vec key = load(h->keys, block + d * TOKENS, bf16);
            for (int i = 0; i < rows; i++)
                sum[i][b] = fused(lanes(r->q[i][d]), key, sum[i][b]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int b = 0; b < count * EACH; b++)
            *(vec *)(scores + i * width + b * LANES) = sum[i][b];
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

/* 16 * `parts` dimensions, from `d` on, of the weighted sums of values. */
INLINE void mix(const Rows *r, const float *scores, int64_t width, const Head *h, int64_t d,
                const int rows, const int parts, const int bf16, const float *factors)
{
    vec sum[ROWS][4 * EACH];
    for (int i = 0; i < rows; i++)
        for (int p = 0; p < parts * EACH; p++)
            sum[i][p] = (vec){0};
    const int64_t seen = r->seen[0]; /* by all rows */
    int64_t t = 0;
    while (t < seen) {
        const int64_t block = h->blocks[t / TOKENS] * h->block + d;
        const int64_t end = seen - t < TOKENS ? seen - t : TOKENS;
        const int64_t ahead = t + 2 * TOKENS <= seen ? h->blocks[t / TOKENS + 1] * h->block + d : block;
        for (int64_t k = 0; k < end; k++, t++) {
            for (int p = 0; rows < ROWS && p < parts; p++)
                fetch(h->values, ahead + k * h->dim + p * 16, bf16);
            for (int p = 0; p < parts * EACH; p++) {
                const vec value = load(h->values, block + k * h->dim + p * LANES, bf16);
                for (int i = 0; i < rows; i++)
                    sum[i][p] = fused(lanes(scores[i * width + t]), value, sum[i][p]);
            }
        }
    }
    /* A weight of 0 would not do for the others: 0 times NaN is NaN. */
    for (; t < r->seen[rows - 1]; t++) {
        const int64_t at = h->blocks[t / TOKENS] * h->block + t % TOKENS * h->dim + d;
        for (int i = 1; i < rows; i++)
            if (t < r->seen[i])
                for (int p = 0; p < parts * EACH; p++)
                    sum[i][p] = fused(lanes(scores[i * width + t]),
                                      load(h->values, at + p * LANES, bf16), sum[i][p]);
    }
    for (int i = 0; i < rows; i++)
        for (int p = 0; p < parts * EACH; p++)
            *(vec *)(r->out[i] + d + p * LANES) = sum[i][p] * factors[i];
}

/* A tile of rows. */
INLINE void attend_rows(const Rows *r, const Head *h, const int rows, const int bf16, float *scores)
{
    const int64_t blocks = (r->seen[rows - 1] + TOKENS - 1) / TOKENS, width = blocks * TOKENS;
    const int parts = rows == 1 ? 4 : TILE; /* at once, so that sums do not wait for each other */
    int64_t b = 0, d = 0;
    for (; b + parts <= blocks; b += parts) {
        const int64_t ahead = b + 2 * parts <= blocks ? b + parts : b;
        dots(r, h, h->blocks + b, h->blocks + ahead, rows, parts, bf16, scores + b * TOKENS, width);
    }
    for (; b < blocks; b++)
        dots(r, h, h->blocks + b, h->blocks + b, rows, 1, bf16, scores + b * TOKENS, width);
    float factors[ROWS];
    for (int i = 0; i < rows; i++)
        factors[i] = softmax(scores + i * width, r->seen[i], width, 1.44269504f / sqrtf(h->dim));
    for (; d + 16 * parts <= h->dim; d += 16 * parts)
        mix(r, scores, width, h, d, rows, parts, bf16, factors);
    for (; d < h->dim; d += 16)
        mix(r, scores, width, h, d, rows, 1, bf16, factors);
}

/* Turns one query or key, as `Turn` says. */
INLINE void turn_head(float *x, int64_t dim, const Norm *by, const Turn *turn, int64_t token)
{
    if (by)
        norm(by, x, dim, x);
    if (!turn->cosines)
        return;
    const int64_t half = dim / 2;
    const float *cosines = turn->cosines + token * half, *sines = turn->sines + token * half;
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i], second = x[half + i];
        x[i] = first * cosines[i] - second * sines[i];
        x[half + i] = second * cosines[i] + first * sines[i];
    }
}

INLINE void store(void *cells, int64_t at, float x, const int bf16)
{
    if (bf16)
        ((uint16_t *)cells)[at] = to_bf16(x);
    else
        ((float *)cells)[at] = x;
}

INLINE void head_of(const Head *h, const int bf16, float *scores)
{
    for (int64_t i = 0; i < h->length; i++) {
        float *q = h->q + i * h->stride, *k = h->k + i * h->stride, *v = h->v + i * h->stride;
        for (int64_t g = 0; g < h->group; g++)
            turn_head(q + g * h->dim, h->dim, h->turn.q_norm, &h->turn, i);
        turn_head(k, h->dim, h->turn.k_norm, &h->turn, i);
        const int64_t block = h->blocks[(h->start + i) / TOKENS] * h->block;
        const int64_t t = (h->start + i) % TOKENS;
        for (int64_t d = 0; d < h->dim; d++) {
            store(h->keys, block + d * TOKENS + t, k[d], bf16);
            store(h->values, block + t * h->dim + d, v[d], bf16);
        }
    }
    const int64_t all = h->length * h->group;
    for (int64_t first = 0; first < all; first += ROWS) {
        const int rows = all - first < ROWS ? all - first : ROWS;
        Rows r;
        for (int i = 0; i < rows; i++) {
            const int64_t token = (first + i) / h->group, query = (first + i) % h->group;
            r.q[i] = h->q + token * h->stride + query * h->dim;
            r.out[i] = h->out + token * h->out_stride + query * h->dim;
            r.seen[i] = h->start + token + 1;
        }
        switch (rows) {
        case 1: attend_rows(&r, h, 1, bf16, scores); break;
        case 2: attend_rows(&r, h, 2, bf16, scores); break;
        case 3: attend_rows(&r, h, 3, bf16, scores); break;
        default: attend_rows(&r, h, ROWS, bf16, scores);
        }
    }
}

ATTRIBUTES static void head(const Head *h, int bf16, float *scores)
{
    if (bf16)
        head_of(h, 1, scores);
    else
        head_of(h, 0, scores);
}
