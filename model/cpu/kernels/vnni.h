/* Bytes times weights where the processor has `vpdpbusd`, in vectors of LANES channels; see `dot`
   and `dot_groups` in kernels.h. */

#define WIDE 2                       /* vectors whose weights meet what is loaded of a row together */
#define NEAR (LANES == 16 ? 4 : 1) /* rows that do, where there are registers for their sums */

typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE ints repeated(const void *four)
{
    int32_t whole;
    memcpy(&whole, four, 4);
    return (ints){0} + whole;
}

/* `vectors` of channels, from channel `first` on, for a constant number of rows, so that the sums
   stay in registers. */
INLINE void tile(const uint8_t *x, int64_t stride, const int8_t *w, int64_t fours, const int rows,
                 const int vectors, const int first, int32_t *sums, const int8_t *ahead,
                 int64_t step)
{
    ints sum[ROWS][CHANNELS / LANES];
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < vectors; q++)
            sum[r][q] = (ints){0};
    for (int64_t f = 0; f < fours; f++, w += 4 * CHANNELS) {
        if (ahead)
            for (int64_t line = 0; line < step; line += 64)
                __builtin_prefetch(ahead + f * step + line, 0, 2);
        for (int r = 0; r < rows; r++) {
            const ints in = repeated(x + r * stride + 4 * f);
            for (int q = 0; q < vectors; q++) {
                const ints weights = *(const ints *)(w + 4 * (first + q * LANES));
                sum[r][q] = DPBUSD(sum[r][q], in, weights);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int q = 0; q < vectors; q++)
            *(ints *)(sums + r * CHANNELS + first + q * LANES) = sum[r][q];
}

INLINE void tiles(const uint8_t *x, int64_t stride, const int8_t *w, int64_t fours, const int rows,
                  int32_t *sums, const int8_t *ahead, int64_t step)
{
    for (int c = 0; c < CHANNELS; c += 16 * TILE)
        tile(x, stride, w, fours, rows, TILE * EACH, c, sums, c ? NULL : ahead, step);
}

ATTRIBUTES static void NAMED(dot)(const uint8_t *x, int64_t stride, const int8_t *w, int64_t fours,
                                  int rows, int32_t *sums, const int8_t *ahead, int64_t step)
{
    switch (rows) {
    case 1: /* as fast as memory: there the processor's own fetching does the rest */
        tile(x, stride, w, fours, 1, CHANNELS / LANES, 0, sums, ahead, 64);
        break;
    case 2: tiles(x, stride, w, fours, 2, sums, ahead, step); break;
    case 3: tiles(x, stride, w, fours, 3, sums, ahead, step); break;
    default: tiles(x, stride, w, fours, ROWS, sums, ahead, step);
    }
}

/* What LANES channels have in a group. */
typedef struct {
    ints fours[GROUP / 4]; /* bytes without a sign */
    vec scale, minimum;
} Channels;

/* Scales or minima: in 16 bits, or bytes times 16 bits. */
INLINE vec scales_at(const Kind kind, const uint8_t *own, const uint8_t *super)
{
    if (kind == GROUPED)
        return bf16_numbers(own);
    if (kind != NESTED)
        return FP16(own);
    return FP16(super) * __builtin_convertvector(BYTES(own), vec);
}

/* Those of group `g` in a block, from channel `c` on: nibbles become bytes here. */
INLINE Channels channels_at(const Kind kind, const uint8_t *w, int64_t groups, int64_t g, int64_t c)
{
    Channels of;
    if (kind == GROUPED || kind == HALVES) {
        const uint8_t *group = w + g * GROUP_BYTES;
        for (int f = 0; f < GROUP / 4; f++)
            of.fours[f] = *(const ints *)(group + 4 * (f * CHANNELS + c));
        of.scale = scales_at(kind, group + GROUP * CHANNELS + 2 * c, NULL);
        return of;
    }
    const int nested = kind == NESTED;
    const uint8_t *group = w + g * (nested ? NESTED_BYTES : NIBBLE_BYTES);
    for (int f = 0; f < HALF / 4; f++) {
        const ints both = *(const ints *)(group + 4 * (f * CHANNELS + c));
        of.fours[f] = both & 0x0F0F0F0F;
        of.fours[HALF / 4 + f] = both >> 4 & 0x0F0F0F0F;
    }
    const uint8_t *own = own_scales(w, g, nested, c), *super = super_scales(w, groups, g, c);
    of.scale = scales_at(kind, own, super);
    of.minimum = scales_at(kind, own + CHANNELS * (nested ? 1 : 2), super + 2 * CHANNELS);
    return of;
}

/* A group of WIDE vectors of channels times that of `rows` rows, added to sums: several rows at a
   time, so that their sums do not wait for each other. */
INLINE void add_rows(const Kind kind, const int8_t *x, const Channels *of,
                     const int rows, const float *steps, const int32_t *offsets, float *sums)
{
    const int has_minima = kind == NIBBLES || kind == NESTED;
    ints sum[NEAR][WIDE];
    for (int r = 0; r < rows; r++)
        for (int e = 0; e < WIDE; e++)
            sum[r][e] = (ints){0} + (has_minima ? 0 : offsets[r]);
    for (int f = 0; f < GROUP / 4; f++)
        for (int r = 0; r < rows; r++) {
            const ints in = repeated(x + r * GROUP + 4 * f);
            for (int e = 0; e < WIDE; e++)
                sum[r][e] = DPBUSD(sum[r][e], of[e].fours[f], in);
        }
    for (int r = 0; r < rows; r++)
        for (int e = 0; e < WIDE; e++) {
            const vec stepped = __builtin_convertvector(sum[r][e], vec) * steps[r];
            vec *own = (vec *)(sums + r * CHANNELS + e * LANES);
            vec all = fused(stepped, of[e].scale, *own);
            if (has_minima)
                all = fused(lanes(row_sum_at(offsets + r)), of[e].minimum, all);
            *own = all;
        }
}

/* The same of any number of rows. The weights stay in registers meanwhile, and what is loaded of a
   row serves all vectors. */
INLINE void add_group(const Kind kind, const int8_t *x, const Channels *of,
                      int rows, const float *steps, const int32_t *offsets, float *sums)
{
    int r = 0;
    for (; r + NEAR <= rows; r += NEAR)
        add_rows(kind, x + r * GROUP, of, NEAR, steps + r, offsets + r, sums + r * CHANNELS);
    for (; r < rows; r++)
        add_rows(kind, x + r * GROUP, of, 1, steps + r, offsets + r, sums + r * CHANNELS);
}

/* Few rows go through a block from front to back, as it comes from memory; many take it WIDE
   vectors of channels at a time, so that their sums stay near. */
INLINE void tiles_groups(const Kind kind, const int8_t *x, const uint8_t *w,
                         int64_t groups, const int rows, const float *steps,
                         const int32_t *offsets, float *sums, const int8_t *ahead, int64_t step)
{
    const int nibbles = kind == NIBBLES || kind == NESTED;
    const int size = kind == NESTED ? NESTED_BYTES : nibbles ? NIBBLE_BYTES : GROUP_BYTES;
    const int wide = WIDE * LANES, width = rows > ROWS ? wide : CHANNELS;
    memset(sums, 0, sizeof(float) * CHANNELS * rows);
    for (int64_t first = 0; first < CHANNELS; first += width)
        for (int64_t g = 0; g < groups; g++) {
            const int64_t fetched = first ? 0 : size * step / (4 * CHANNELS);
            for (int64_t line = 0; line < fetched; line += 64)
                __builtin_prefetch(ahead + g * fetched + line, 0, 2);
            for (int64_t c = first; c < first + width; c += wide) {
                Channels of[WIDE];
                for (int e = 0; e < WIDE; e++)
                    of[e] = channels_at(kind, w, groups, g, c + e * LANES);
                add_group(kind, x + g * TALL * GROUP, of, rows, steps + g * TALL, offsets + g * TALL,
                          sums + c);
            }
        }
}

INLINE void any_rows(const Kind kind, const int8_t *x, const uint8_t *w,
                     int64_t groups, int rows, const float *steps, const int32_t *offsets,
                     float *sums, const int8_t *ahead, int64_t step)
{
    if (rows == 1) /* is compiled apart */
        tiles_groups(kind, x, w, groups, 1, steps, offsets, sums, ahead, step);
    else
        tiles_groups(kind, x, w, groups, rows, steps, offsets, sums, ahead, step);
}

ATTRIBUTES static void NAMED(dot_groups)(const int8_t *x, const uint8_t *w,
                                         int64_t groups, int rows, const float *steps,
                                         const int32_t *offsets, int fp16, float *sums,
                                         const int8_t *ahead, int64_t step)
{
    if (fp16)
        any_rows(HALVES, x, w, groups, rows, steps, offsets, sums, ahead, step);
    else
        any_rows(GROUPED, x, w, groups, rows, steps, offsets, sums, ahead, step);
}

ATTRIBUTES static void NAMED(dot_nibbles)(const int8_t *x, const uint8_t *w,
                                          int64_t groups, int rows, const float *steps,
                                          const int32_t *row_sums, int nested, float *sums,
                                          const int8_t *ahead, int64_t step)
{
    if (nested)
        any_rows(NESTED, x, w, groups, rows, steps, row_sums, sums, ahead, step);
    else
        any_rows(NIBBLES, x, w, groups, rows, steps, row_sums, sums, ahead, step);
}
