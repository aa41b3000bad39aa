/* Bytes times weights where the processor has AMX, whose tiles multiply 16 rows by 16 channels at
   once; see `dot` and `dot_groups` in kernels.h. Sums of bytes are exact there, too, and the
   operations on floats behind them are those of vnni.h, in the same order. */

#define PART 24 /* groups whose weights are unpacked together */
#define TILED AMX static inline __attribute__((always_inline))
#define BARRIER() __asm__ volatile("" ::: "memory") /* the compiler does not know what tiles read */

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16]; /* of a row of each tile */
    uint8_t rows[16];
} __attribute__((packed)) Shapes;

/* A product of up to TALLEST rows and a block of channels that are not plain. */
typedef struct {
    const int8_t *x;
    int64_t stride, groups;
    const uint8_t *w;
    int64_t size, rows; /* bytes of a group */
    const float *steps;
    const int32_t *offsets;
    float *sums;
    const int8_t *ahead;
    int64_t fetched; /* bytes for each group */
} Product;

/* What a thread has at hand: weights as tiles take them, and the sums of two groups. */
typedef struct {
    _Alignas(64) uint8_t weights[PART][GROUP * LANES];
    int32_t sums[2][TALL * LANES];
} Desk;

/* Weights of LANES channels from `c` on in a group, with a sign or of 4 bits. */
TILED void unpack(const int nibbles, const uint8_t *group, int64_t c, uint8_t *to)
{
    for (int f = 0; f < (nibbles ? HALF : GROUP) / 4; f++, to += 4 * LANES) {
        const ints fours = *(const ints *)(group + 4 * (f * CHANNELS + c));
        if (nibbles) {
            *(ints *)to = fours & 0x0F0F0F0F;
            *(ints *)(to + HALF * LANES) = fours >> 4 & 0x0F0F0F0F;
        } else {
            *(ints *)to = fours ^ (int32_t)0x80808080;
        }
    }
}

/* A group of 16 rows and LANES channels, into tile `set`: 0 or 1. */
TILED void multiply_group(const int nibbles, const int set, const int8_t *x, int64_t stride,
                          const uint8_t *weights)
{
    _tile_loadd(4, x, stride);
    _tile_loadd(5, weights, 4 * LANES);
    if (set == 0) {
        _tile_zero(0);
        if (nibbles)
            _tile_dpbsud(0, 4, 5);
        else
            _tile_dpbssd(0, 4, 5);
    } else {
        _tile_zero(1);
        if (nibbles)
            _tile_dpbsud(1, 4, 5);
        else
            _tile_dpbssd(1, 4, 5);
    }
}

/* What tile `set` has, scaled, added to the sums of 16 rows. */
TILED void add_tile(const Kind kind, const int set, const Product *p, int64_t g, int64_t c,
                    const float *steps, const int32_t *row_sums, Desk *desk, vec *sums)
{
    const int nibbles = kind == NIBBLES || kind == NESTED;
    const uint8_t *own = p->w + g * p->size + (nibbles ? HALF : GROUP) * CHANNELS;
    own += kind == NESTED ? c : 2 * c;
    const uint8_t *super = nibbles ? super_scales(p->w, p->groups, g, c) : NULL;
    const vec scale = scales_at(kind, own, super);
    vec minimum = {0};
    if (nibbles)
        minimum = scales_at(kind, own + CHANNELS * (kind == NESTED ? 1 : 2), super + 2 * CHANNELS);
#pragma GCC unroll 16
    for (int r = 0; r < TALL; r++) {
        const ints whole = *(const ints *)(desk->sums[set] + r * LANES);
        sums[r] = fused(__builtin_convertvector(whole, vec) * steps[r], scale, sums[r]);
        if (nibbles)
            sums[r] = fused(lanes(row_sum_at(row_sums + r)), minimum, sums[r]);
    }
}

/* The groups from `first` to `end`, for LANES channels from `c` on and 16 rows from `row` on. While
   the sums of a group are scaled and added up, the next group is multiplied. */
TILED void run_groups(const Kind kind, const Product *p, int64_t row, int64_t c, int64_t first,
                      int64_t end, Desk *desk)
{
    const int nibbles = kind == NIBBLES || kind == NESTED;
    const int8_t *x = p->x + row * p->stride;
    const float *steps = p->steps + row * p->groups;
    const int32_t *row_sums = p->offsets + row * p->groups;
    float *to = p->sums + row * CHANNELS + c;
    vec sums[TALL];
#pragma GCC unroll 16
    for (int r = 0; r < TALL; r++)
        sums[r] = first ? *(const vec *)(to + r * CHANNELS) : (vec){0};
    BARRIER();
    multiply_group(nibbles, 0, x + first * GROUP, p->stride, desk->weights[0]);
    for (int64_t g = first; g < end; g += 2) {
        _tile_stored(0, desk->sums[0], 4 * LANES);
        if (g + 1 < end)
            multiply_group(nibbles, 1, x + (g + 1) * GROUP, p->stride,
                           desk->weights[g + 1 - first]);
        for (int64_t line = 4 * c; line < 2 * p->fetched && !row; line += 4 * CHANNELS)
            __builtin_prefetch(p->ahead + g * p->fetched + line, 0, 2);
        add_tile(kind, 0, p, g, c, steps + g * TALL, row_sums + g * TALL, desk, sums);
        if (g + 1 == end)
            break;
        _tile_stored(1, desk->sums[1], 4 * LANES);
        if (g + 2 < end)
            multiply_group(nibbles, 0, x + (g + 2) * GROUP, p->stride,
                           desk->weights[g + 2 - first]);
        add_tile(kind, 1, p, g + 1, c, steps + (g + 1) * TALL, row_sums + (g + 1) * TALL, desk,
                 sums);
    }
#pragma GCC unroll 16
    for (int r = 0; r < TALL; r++)
        *(vec *)(to + r * CHANNELS) = sums[r];
}

TILED void multiply_tiles(const Kind kind, const Product *p)
{
    const int nibbles = kind == NIBBLES || kind == NESTED;
    Shapes shapes = {.palette = 1};
    for (int t = 0; t < 6; t++) {
        shapes.bytes[t] = t == 4 ? GROUP : 4 * LANES;
        shapes.rows[t] = t == 5 ? GROUP / 4 : TALL;
    }
    _tile_loadconfig(&shapes);
    Desk desk;
    for (int64_t first = 0; first < p->groups; first += PART) {
        const int64_t end = first + PART < p->groups ? first + PART : p->groups;
        for (int64_t c = 0; c < CHANNELS; c += LANES) {
            for (int64_t g = first; g < end; g++)
                unpack(nibbles, p->w + g * p->size, c, desk.weights[g - first]);
            for (int64_t row = 0; row < p->rows; row += TALL)
                run_groups(kind, p, row, c, first, end, &desk);
        }
    }
    _tile_release();
}

/* Whole tiles are multiplied here, and what is left of the rows as where there are no tiles. */
AMX static void dot_groups_amx(const int8_t *x, int64_t stride, const uint8_t *w, int64_t groups,
                               int rows, const float *steps, const int32_t *offsets, int fp16,
                               float *sums, const int8_t *ahead, int64_t step)
{
    const int done = rows / TALL * TALL;
    const Product p = {x, stride, groups, w, GROUP_BYTES, done, steps, offsets, sums, ahead,
                       GROUP_BYTES * step / (4 * CHANNELS)};
    if (done && fp16)
        multiply_tiles(HALVES, &p);
    else if (done)
        multiply_tiles(GROUPED, &p);
    if (done < rows)
        NAMED(dot_groups)(x + done * stride, stride, w, groups, rows - done, steps + done * groups,
                          offsets + done * groups, fp16, sums + done * CHANNELS, ahead,
                          done ? 0 : step);
}

AMX static void dot_nibbles_amx(const int8_t *x, int64_t stride, const uint8_t *w, int64_t groups,
                                int rows, const float *steps, const int32_t *row_sums, int nested,
                                float *sums, const int8_t *ahead, int64_t step)
{
    const int done = rows / TALL * TALL;
    const int64_t size = nested ? NESTED_BYTES : NIBBLE_BYTES;
    const Product p = {x, stride, groups, w, size, done, steps, row_sums, sums, ahead,
                       size * step / (4 * CHANNELS)};
    if (done && nested)
        multiply_tiles(NESTED, &p);
    else if (done)
        multiply_tiles(NIBBLES, &p);
    if (done < rows)
        NAMED(dot_nibbles)(x + done * stride, stride, w, groups, rows - done,
                           steps + done * groups, row_sums + done * groups, nested,
                           sums + done * CHANNELS, ahead, done ? 0 : step);
}

/* Plain layers: the sums of whole rows stay in four tiles, one for each LANES channels. */
AMX static void dot_amx(const uint8_t *x, int64_t stride, const int8_t *w, int64_t fours, int rows,
                        int32_t *sums, const int8_t *ahead, int64_t step)
{
    if (rows < TALL) {
        for (int r = 0; r < rows; r += ROWS)
            NAMED(dot)(x + r * stride, stride, w, fours, rows - r < ROWS ? rows - r : ROWS,
                       sums + r * CHANNELS, r ? NULL : ahead, step);
        return;
    }
    const int rest = fours % 16;
    Shapes shapes = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        shapes.bytes[t] = t == 5 && rest ? 4 * rest : 64;
        shapes.rows[t] = t < 6 ? TALL : t == 7 && rest ? rest : 16;
    }
    BARRIER();
    _tile_loadconfig(&shapes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
#define TIMES(sum, in, weights, from)                                                              \
    _tile_loadd(weights, from, 4 * CHANNELS);                                                      \
    _tile_dpbusd(sum, in, weights)
#define FOUR_TIMES(in, weights)                                                                    \
    _tile_loadd(in, x, stride);                                                                    \
    TIMES(0, in, weights, w);                                                                      \
    TIMES(1, in, weights, w + 64);                                                                 \
    TIMES(2, in, weights, w + 128);                                                                \
    TIMES(3, in, weights, w + 192)
    for (int64_t f = 0; f + 16 <= fours; f += 16, x += 64, w += 16 * 4 * CHANNELS) {
        for (int64_t line = 0; line < 16 * step; line += 64)
            __builtin_prefetch(ahead + f * step + line, 0, 2);
        FOUR_TIMES(4, 6);
    }
    if (rest) {
        FOUR_TIMES(5, 7);
    }
#undef TIMES
#undef FOUR_TIMES
    _tile_stored(0, sums, 4 * CHANNELS);
    _tile_stored(1, sums + LANES, 4 * CHANNELS);
    _tile_stored(2, sums + 2 * LANES, 4 * CHANNELS);
    _tile_stored(3, sums + 3 * LANES, 4 * CHANNELS);
    _tile_release();
}
