/* Bytes times weights where the processor has AMX, whose tiles multiply 16 rows by 16 channels at
   once; see `dot` and `dot_groups` in kernels.h. Sums of bytes are exact there, too, and the
   operations on floats behind them are those of vnni.h, in the same order. */

#define PART 24 /* groups whose weights are unpacked together */
#define AHEAD 3 /* groups that are being multiplied while one is added up; a tile each */
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
    int64_t groups;
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

/* Tiles are named by constants: what multiplies a group of 16 rows and LANES channels into tile
   `number`, and what stores that. */
TILED void multiply_group(const int nibbles, const int number, const int8_t *x,
                          const uint8_t *weights)
{
    _tile_loadd(4, x, GROUP);
    _tile_loadd(5, weights, 4 * LANES);
#define INTO(tile)                                                                                 \
    case tile:                                                                                     \
        _tile_zero(tile);                                                                          \
        if (nibbles)                                                                               \
            _tile_dpbsud(tile, 4, 5);                                                              \
        else                                                                                       \
            _tile_dpbssd(tile, 4, 5);                                                              \
        break
    switch (number) {
        INTO(0);
        INTO(1);
        INTO(2);
        INTO(3);
    }
#undef INTO
}

TILED void store_tile(const int number, int32_t *sums)
{
    switch (number) {
    case 0: _tile_stored(0, sums, 4 * LANES); break;
    case 1: _tile_stored(1, sums, 4 * LANES); break;
    case 2: _tile_stored(2, sums, 4 * LANES); break;
    case 3: _tile_stored(3, sums, 4 * LANES); break;
    }
}

/* A group's sums of bytes, scaled and added to the sums of 16 rows. */
TILED void add_tile(const Kind kind, const Product *p, int64_t g, int64_t c, const float *steps,
                    const int32_t *row_sums, const int32_t *bytes, vec *sums)
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
        const ints whole = *(const ints *)(bytes + r * LANES);
        sums[r] = fused(__builtin_convertvector(whole, vec) * steps[r], scale, sums[r]);
        if (nibbles)
            sums[r] = fused(lanes(row_sum_at(row_sums + r)), minimum, sums[r]);
    }
}

/* A part of a product: the groups from `first` to `end`, LANES channels from `c` on, and 16 rows from
   `row` on. */
typedef struct {
    const Product *p;
    int64_t row, c, first, end;
    Desk *desk;
} Run;

TILED void begin_group(const Kind kind, const int number, const Run *run, int64_t g)
{
    const int8_t *x = run->p->x + (run->row * run->p->groups + g * TALL) * GROUP;
    if (g < run->end)
        multiply_group(kind == NIBBLES || kind == NESTED, number, x,
                       run->desk->weights[g - run->first]);
}

/* Adds a group up that is in tile `number`, and begins a later one. */
TILED void end_group(const Kind kind, const int number, const Run *run, int64_t g, vec *sums)
{
    const Product *p = run->p;
    int32_t *bytes = run->desk->sums[number % 2];
    const int64_t steps = run->row * p->groups + g * TALL;
    store_tile(number, bytes);
    begin_group(kind, (number + AHEAD) % (AHEAD + 1), run, g + AHEAD);
    for (int64_t line = 4 * run->c; line < p->fetched && !run->row; line += 4 * CHANNELS)
        __builtin_prefetch(p->ahead + g * p->fetched + line, 0, 2);
    add_tile(kind, p, g, run->c, p->steps + steps, p->offsets + steps, bytes, sums);
}

/* While the sums of a group are scaled and added up, the next ones are multiplied. */
TILED void run_groups(const Kind kind, const Run *run)
{
    float *to = run->p->sums + run->row * CHANNELS + run->c;
    vec sums[TALL];
#pragma GCC unroll 16
    for (int r = 0; r < TALL; r++)
        sums[r] = run->first ? *(const vec *)(to + r * CHANNELS) : (vec){0};
    BARRIER();
    begin_group(kind, 0, run, run->first);
    begin_group(kind, 1, run, run->first + 1);
    begin_group(kind, 2, run, run->first + 2);
    int64_t g = run->first;
    for (; g + 4 <= run->end; g += 4) {
        end_group(kind, 0, run, g, sums);
        end_group(kind, 1, run, g + 1, sums);
        end_group(kind, 2, run, g + 2, sums);
        end_group(kind, 3, run, g + 3, sums);
    }
    if (g < run->end)
        end_group(kind, 0, run, g, sums);
    if (g + 1 < run->end)
        end_group(kind, 1, run, g + 1, sums);
    if (g + 2 < run->end)
        end_group(kind, 2, run, g + 2, sums);
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
            for (int64_t row = 0; row < p->rows; row += TALL) {
                const Run run = {p, row, c, first, end, &desk};
                run_groups(kind, &run);
            }
        }
    }
    _tile_release();
}

/* Whole tiles are multiplied here, and what is left of the rows as where there are no tiles. */
AMX static void dot_groups_amx(const int8_t *x, const uint8_t *w, int64_t groups,
                               int rows, const float *steps, const int32_t *offsets, int fp16,
                               float *sums, const int8_t *ahead, int64_t step)
{
    const int done = rows / TALL * TALL;
    const Product p = {x, groups, w, GROUP_BYTES, done, steps, offsets, sums, ahead,
                       GROUP_BYTES * step / (4 * CHANNELS)};
    if (done && fp16)
        multiply_tiles(HALVES, &p);
    else if (done)
        multiply_tiles(GROUPED, &p);
    if (done < rows)
        NAMED(dot_groups)(x + done * groups * GROUP, w, groups, rows - done, steps + done * groups,
                          offsets + done * groups, fp16, sums + done * CHANNELS, ahead,
                          done ? 0 : step);
}

AMX static void dot_nibbles_amx(const int8_t *x, const uint8_t *w, int64_t groups,
                                int rows, const float *steps, const int32_t *row_sums, int nested,
                                float *sums, const int8_t *ahead, int64_t step)
{
    const int done = rows / TALL * TALL;
    const int64_t size = nested ? NESTED_BYTES : NIBBLE_BYTES;
    const Product p = {x, groups, w, size, done, steps, row_sums, sums, ahead,
                       size * step / (4 * CHANNELS)};
    if (done && nested)
        multiply_tiles(NESTED, &p);
    else if (done)
        multiply_tiles(NIBBLES, &p);
    if (done < rows)
        NAMED(dot_nibbles)(x + done * groups * GROUP, w, groups, rows - done,
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
