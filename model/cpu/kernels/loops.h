/* The plain loops, for the instruction set that paths.c describes; it includes this once for each.
   The compiler vectorizes what has no sums; those are in vectors of a fixed order. */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef uint32_t words __attribute__((vector_size(4 * LANES)));

/* LANES numbers in bf16. */
INLINE vec bf16_numbers(const void *from)
{
#ifdef WORDS
    return (vec)((words)WORDS(from) << 16);
#else
    typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
    return (vec)(__builtin_convertvector(*(const halves *)from, words) << 16);
#endif
}

/* In all lanes. (0 + x would be computed, for the sake of -0.) */
INLINE vec lanes(float x) { return x - (vec){0}; }

/* a b + c, rounded once. */
INLINE vec fused(const vec a, const vec b, const vec c)
{
#ifdef FUSED
    return FUSED(a, b, c);
#else
    vec y;
    for (int i = 0; i < LANES; i++)
        y[i] = fused_number(a[i], b[i], c[i]);
    return y;
#endif
}

/* The sum of 16 lanes. */
INLINE float total(const vec *sums)
{
    float sum = 0;
    for (int i = 0; i < 16; i++)
        sum += sums[i / LANES][i % LANES];
    return sum;
}

/* Both layer norm and RMS norm, which takes no mean away and adds no bias. */
INLINE void norm(const Norm *by, const float *x, int64_t n, float *y)
{
    float mean = 0;
    if (by->bias) {
        vec sums[EACH] = {0};
        for (int64_t i = 0; i < n; i += 16)
            for (int e = 0; e < EACH; e++)
                sums[e] += *(const vec *)(x + i + e * LANES);
        mean = total(sums) / n;
    }
    vec squares[EACH] = {0};
    for (int64_t i = 0; i < n; i += 16)
        for (int e = 0; e < EACH; e++) {
            const vec centred = *(const vec *)(x + i + e * LANES) - mean;
            squares[e] += centred * centred;
        }
    const float factor = 1 / sqrtf(total(squares) / n + by->eps);
    if (by->bias)
        for (int64_t i = 0; i < n; i++)
            y[i] = (x[i] - mean) * factor * by->weight[i] + by->bias[i];
    else
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] * factor * by->weight[i];
}

ATTRIBUTES static void norm_row(const Norm *by, const float *x, int64_t n, float *y)
{
    norm(by, x, n, y);
}

ATTRIBUTES static void quantize(const float *restrict x, int64_t n, uint8_t *restrict u,
                                float *step, int32_t *zero)
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

ATTRIBUTES static void quantize_groups(const float *restrict x, int64_t n, int8_t *restrict s,
                                      float *restrict steps, int32_t *restrict offsets)
{
    const int64_t groups = (n + GROUP - 1) / GROUP;
    for (int64_t g = 0; g < groups; g++, s += TALL * GROUP) {
        const int64_t left = n - g * GROUP;
        float own[GROUP];
        if (left >= GROUP)
            memcpy(own, x + g * GROUP, sizeof(own));
        else
            for (int i = 0; i < GROUP; i++)
                own[i] = i < left ? x[g * GROUP + i] : 0;
        uint32_t bits[GROUP], most = 0; /* of sizes: their bits are in the order of the numbers */
        memcpy(bits, own, sizeof(bits));
        for (int i = 0; i < GROUP; i++) {
            const uint32_t size = bits[i] & 0x7FFFFFFF;
            most = size > most ? size : most;
        }
        float largest;
        memcpy(&largest, &most, sizeof(largest));
        const int finite = most < 0x7F800000;
        const float step = largest / 127;
        if (!finite || !(step > 1e-30f)) {
            steps[g * TALL] = finite ? 0 : NAN; /* a step so small that 1 / step overflows is 0 */
            offsets[g * TALL] = 0;
            memset(s, 0, GROUP);
            continue;
        }
        const float inverse = 1 / step;
        int32_t whole[GROUP];
        for (int i = 0; i < GROUP; i++)
            whole[i] = (int32_t)rintf(own[i] * inverse);
        for (int i = 0; i < GROUP; i++)
            s[i] = (int8_t)whole[i];
        int32_t sum = 0;
        for (int i = 0; i < GROUP; i++)
            sum += whole[i];
        steps[g * TALL] = step;
        offsets[g * TALL] = -128 * sum;
    }
}

ATTRIBUTES static void finish(const Weights *w, int64_t first, const int32_t *restrict sums,
                              float step, int32_t zero, float *restrict y)
{
    const int32_t *correction = w->sums + first;
    const float *scale = w->scale + first, *bias = w->bias + first;
    for (int64_t i = 0; i < CHANNELS; i++)
        y[i] = (float)(sums[i] - zero * correction[i]) * (step * scale[i]) + bias[i];
}

/* x / (1 + exp(-2 t)) is GELU's tanh form x (1 + tanh t) / 2, with t = sqrt(2 / pi) (x + 0.044715
   x^3); within 1e-6 of the exact value. */
ATTRIBUTES static void gelu(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        /* -2 t / ln 2 */
        float z = x[i] * (-2.3022082f - 0.10294324f * x[i] * x[i]);
        z = z < -126 ? -126 : z;
        z = z > 126 ? 126 : z;
        x[i] = x[i] / (1 + exp2_within(z));
    }
}

ATTRIBUTES static void swiglu(const float *gate, const float *up, float *y)
{
    for (int i = 0; i < CHANNELS / 2; i++) {
        float z = gate[i] * -1.44269504f; /* exp(-gate) is 2^z */
        z = z < -126 ? -126 : z;
        z = z > 126 ? 126 : z;
        y[i] = gate[i] / (1 + exp2_within(z)) * up[i];
    }
}

/* Every fourth input has a sum of its own, so that they do not wait for each other. */
INLINE void down_rows(const Pair *pair, const float *x, int64_t n, const int rows, float *low,
                      int64_t rank)
{
    const int64_t padded = (pair->rank + 15) / 16 * 16;
    for (int64_t k = 0; k < padded; k += LANES) {
        vec sum[ROWS][4];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < 4; j++)
                sum[r][j] = (vec){0};
        for (int64_t i = 0; i < n; i += 4)
            for (int j = 0; j < 4; j++) {
                const vec a = *(const vec *)(pair->a + (i + j) * padded + k);
                for (int r = 0; r < rows; r++)
                    sum[r][j] = fused(lanes(x[r * n + i + j]), a, sum[r][j]);
            }
        for (int r = 0; r < rows; r++)
            *(vec *)(low + r * rank + k) = sum[r][0] + sum[r][1] + (sum[r][2] + sum[r][3]);
    }
}

INLINE void up_rows(const Pair *pair, int64_t block, const float *low, int64_t rank,
                    const int rows, float *y)
{
    const float *matrix = pair->b + block * pair->rank * CHANNELS;
    for (int64_t c = 0; c < CHANNELS; c += TILE * 16) {
        vec sum[ROWS][TILE * EACH];
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < TILE * EACH; p++)
                sum[r][p] = (vec){0};
        for (int64_t k = 0; k < pair->rank; k++)
            for (int p = 0; p < TILE * EACH; p++) {
                const vec b = *(const vec *)(matrix + k * CHANNELS + c + p * LANES);
                for (int r = 0; r < rows; r++)
                    sum[r][p] = fused(lanes(low[r * rank + k]), b, sum[r][p]);
            }
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < TILE * EACH; p++)
                *(vec *)(y + r * CHANNELS + c + p * LANES) += sum[r][p];
    }
    if (pair->gain)
        for (int64_t c = 0; c < CHANNELS; c += LANES) {
            const vec gain = *(const vec *)(pair->gain + block * CHANNELS + c);
            const vec shift = *(const vec *)(pair->shift + block * CHANNELS + c);
            for (int r = 0; r < rows; r++) {
                vec *own = (vec *)(y + r * CHANNELS + c);
                *own += fused(*own, gain, shift);
            }
        }
}

ATTRIBUTES static void down(const Pair *pair, const float *x, int64_t n, int rows, float *low,
                            int64_t rank)
{
    if (rows == ROWS)
        down_rows(pair, x, n, ROWS, low, rank);
    else
        for (int r = 0; r < rows; r++)
            down_rows(pair, x + r * n, n, 1, low + r * rank, rank);
}

ATTRIBUTES static void up(const Pair *pair, int64_t block, const float *low, int64_t rank, int rows,
                          float *y)
{
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        up_rows(pair, block, low + r * rank, rank, ROWS, y + r * CHANNELS);
    for (; r < rows; r++)
        up_rows(pair, block, low + r * rank, rank, 1, y + r * CHANNELS);
}
