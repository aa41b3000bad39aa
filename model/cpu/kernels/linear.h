/* Linear layers as the threads of a step compute them together: rows become bytes, and blocks of
   channels are multiplied. */

#define PIECE_ROWS 128 /* of a piece of a product */

/* Whose adapter each row gets. */
typedef struct {
    const int32_t *of_row;    /* index in `pairs`, or -1 */
    const Pair *const *pairs; /* of each adapter: for the four layers of every block */
    int64_t rank;             /* the largest, padded */
} Adapters;

/* The rows that a linear layer reads. Where it is not plain, the bytes have a sign, and there is a
   step and an offset of each group: bytes are (tiles of TALL rows, groups, TALL, GROUP), steps and
   offsets the same without the last. Else there is a step and a zero point of each row. */
typedef struct {
    uint8_t *bytes;
    float *steps;
    int32_t *zeros;
    float *low; /* A x of each row's adapter */
} Encoded;

/* A thread among those that compute a step. */
typedef struct {
    Team team;
    const Path *path;
    int64_t rows;
    const Adapters *adapters; /* or NULL */
    Encoded in;
    float *own; /* memory of this thread */
} Worker;

/* What becomes of a product. */
typedef enum { STORE, ADD, GELU, SWIGLU } Then;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t groups_of(const Weights *w) { return (w->in_features + GROUP - 1) / GROUP; }

/* Whether weights are of 4 bits. */
static int has_nibbles(const Weights *w) { return w->kind == NIBBLES || w->kind == NESTED; }

/* What a layer reads of each row. */
static int64_t bytes_of(const Weights *w)
{
    return w->kind ? groups_of(w) * GROUP : (w->in_features + 3) / 4 * 4;
}

/* Where the bytes of a row begin. */
static int64_t byte_at(const Weights *w, int64_t row)
{
    return w->kind ? row / TALL * TALL * bytes_of(w) + row % TALL * GROUP : row * bytes_of(w);
}

/* Where the first step of a row is. */
static int64_t step_at(const Weights *w, int64_t row)
{
    return w->kind ? row / TALL * TALL * groups_of(w) + row % TALL : row;
}

/* Bytes of a group in a block of channels, where the layer is not plain. */
static int64_t group_size(const Weights *w)
{
    return w->kind == NESTED ? NESTED_BYTES : w->kind == NIBBLES ? NIBBLE_BYTES : GROUP_BYTES;
}

/* Bytes of a block of channels. */
static int64_t size_of(const Weights *w)
{
    const int64_t supers = w->kind == NESTED ? (groups_of(w) + SUPER - 1) / SUPER : 0;
    return w->kind ? groups_of(w) * group_size(w) + supers * 4 * CHANNELS : CHANNELS * bytes_of(w);
}

static int64_t blocks_of(const Weights *w) { return (w->out_features + CHANNELS - 1) / CHANNELS; }

/* The number of rows from `row` on, before `end`, that have the same adapter, and what it does to
   layer number `layer`: NULL for nothing. */
static int64_t run_of(const Adapters *adapters, int64_t row, int64_t end, int64_t layer,
                      const Pair **pair)
{
    const int32_t adapter = adapters->of_row[row];
    *pair = adapter < 0 ? NULL : &adapters->pairs[adapter][layer];
    if (*pair && !(*pair)->rank)
        *pair = NULL;
    int64_t next = row + 1;
    while (next < end && adapters->of_row[next] == adapter)
        next++;
    return next - row;
}

/* In place of a row's offsets, the sum of its numbers in each group. */
static void sum_groups(const float *steps, int32_t *offsets, int64_t groups)
{
    for (int64_t g = 0; g < groups; g++) {
        const float sum = (float)(offsets[g * TALL] / -128) * steps[g * TALL];
        memcpy(offsets + g * TALL, &sum, sizeof(sum));
    }
}

/* Rows of x (rows, in_features), through a norm if there is one, as linear layer number `layer`
   reads them. */
static void encode_rows(const Worker *me, const Weights *w, const float *x, const Norm *norm,
                        int64_t layer, int64_t first, int64_t rows)
{
    const int64_t n = w->in_features;
    x += first * n;
    if (norm) {
        for (int64_t i = 0; i < rows; i++)
            me->path->norm(norm, x + i * n, n, me->own + i * n);
        x = me->own;
    }
    for (int64_t i = 0; i < rows; i++) {
        uint8_t *to = me->in.bytes + byte_at(w, first + i);
        float *step = me->in.steps + step_at(w, first + i);
        int32_t *zero = me->in.zeros + step_at(w, first + i);
        if (w->kind)
            me->path->quantize_groups(x + i * n, n, (int8_t *)to, step, zero);
        else /* padding meets weights of zero: any bytes will do */
            me->path->quantize(x + i * n, n, to, step, zero);
        if (has_nibbles(w))
            sum_groups(step, zero, groups_of(w));
    }
    const Pair *pair;
    for (int64_t i = 0, run; me->adapters && i < rows; i += run) {
        run = run_of(me->adapters, first + i, first + rows, layer, &pair);
        if (pair)
            me->path->down(pair, x + i * n, n, run, me->in.low + (first + i) * me->adapters->rank,
                           me->adapters->rank);
    }
}

/* All rows. A single one is encoded by every thread for itself: that takes less than to share. A
   thread that is late may then read an x that is changing, but it finds no piece left to use it. */
static void encode(Worker *me, const Weights *w, const float *x, const Norm *norm, int64_t layer)
{
    if (me->rows == 1) {
        encode_rows(me, w, x, norm, layer, 0, 1);
        return;
    }
    const int64_t each = me->rows < ROWS * me->team.threads ? 1 : ROWS;
    Pieces pieces = pieces_of(&me->team, (me->rows + each - 1) / each);
    for (int64_t i; (i = take(&pieces)) >= 0;)
        encode_rows(me, w, x, norm, layer, i * each, least(each, me->rows - i * each));
    finish_pieces(&pieces);
}

/* Rows that are multiplied together. */
static int64_t tall_of(const Worker *me, const Weights *w)
{
    return w->kind ? me->path->tall : me->path->most;
}

/* Block `b` of the product of up to `tall_of` rows, from row r on, without their adapters. While it
   is multiplied, `step` bytes of what is `ahead` are fetched for each four inputs. */
static void multiply_tile(const Worker *me, const Weights *w, int64_t b, int64_t r, int64_t rows,
                          float *out, const int8_t *ahead, int64_t step)
{
    const float *step_of = me->in.steps + step_at(w, r);
    const int32_t *zero_of = me->in.zeros + step_at(w, r);
    const uint8_t *x = me->in.bytes + byte_at(w, r);
    const uint8_t *weights = (const uint8_t *)w->weight + b * size_of(w);
    if (w->kind) {
        const int64_t groups = groups_of(w);
        const int8_t *of_groups = (const int8_t *)x;
        if (has_nibbles(w))
            me->path->dot_nibbles(of_groups, weights, groups, rows, step_of, zero_of,
                                  w->kind == NESTED, out, ahead, step);
        else
            me->path->dot_groups(of_groups, weights, groups, rows, step_of, zero_of,
                                 w->kind == HALVES, out, ahead, step);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t c = 0; c < CHANNELS; c++)
                out[i * CHANNELS + c] += w->bias[b * CHANNELS + c];
        return;
    }
    int32_t sums[TALL * CHANNELS];
    me->path->dot(x, bytes_of(w), (const int8_t *)weights, bytes_of(w) / 4, rows, sums, ahead, step);
    for (int64_t i = 0; i < rows; i++)
        me->path->finish(w, b * CHANNELS, sums + i * CHANNELS, step_of[i], zero_of[i],
                         out + i * CHANNELS);
}

/* A block of channels of y (rows, out_features), from the encoded rows from `first` to `end`. With
   SWIGLU, a block has 32 channels of gate and then the same of up, and y half the features. */
static void multiply_block(const Worker *me, const Weights *w, Then then, float *y, int64_t width,
                           int64_t layer, int64_t b, int64_t first, int64_t end, const int8_t *ahead)
{
    const int64_t tall = tall_of(me, w);
    const int64_t tiles = (me->rows + tall - 1) / tall; /* each fetches a part of a block */
    const int64_t channels = then == SWIGLU ? CHANNELS / 2 : CHANNELS, channel = b * channels;
    const int64_t count = least(channels, width - channel);
    for (int64_t r = first; r < end; r += tall) {
        const int64_t rows = least(tall, end - r);
        float out[TALLEST * CHANNELS];
        multiply_tile(me, w, b, r, rows, out, ahead + r / tall * size_of(w) / tiles,
                      4 * CHANNELS / tiles);
        const Pair *pair;
        for (int64_t i = 0, run; me->adapters && i < rows; i += run) {
            run = run_of(me->adapters, r + i, r + rows, layer, &pair);
            if (pair)
                me->path->up(pair, b, me->in.low + (r + i) * me->adapters->rank,
                             me->adapters->rank, run, out + i * CHANNELS);
        }
        if (then == GELU)
            me->path->gelu(out, rows * CHANNELS);
        for (int64_t i = 0; i < rows; i++) {
            float *from = out + i * CHANNELS, *to = y + (r + i) * width + channel;
            if (then == SWIGLU)
                me->path->swiglu(from, from + CHANNELS / 2, from);
            for (int64_t c = 0; c < count; c++)
                to[c] = then == ADD ? to[c] + from[c] : from[c];
        }
    }
}

/* All of y (rows, width). The block that is fetched meanwhile is the next one; for the last of a
   thread's share, the first of its share of `next`. */
static void multiply(Worker *me, const Weights *w, Then then, float *y, int64_t width,
                     int64_t layer, const Weights *next)
{
    const int64_t size = size_of(w), blocks = blocks_of(w);
    const int64_t parts = (me->rows + PIECE_ROWS - 1) / PIECE_ROWS;
    const int64_t last = share_of(&me->team, blocks, me->team.number + 1) - 1;
    Pieces pieces = pieces_of(&me->team, blocks * parts);
    for (int64_t i; (i = take(&pieces)) >= 0;) {
        const int64_t b = i / parts, first = i % parts * PIECE_ROWS;
        const int8_t *ahead = (const int8_t *)w->weight + (b + 1) * size;
        if (b == last && next)
            ahead = (const int8_t *)next->weight +
                    share_of(&me->team, blocks_of(next), me->team.number) * size_of(next);
        multiply_block(me, w, then, y, width, layer, b, first,
                       least(me->rows, first + PIECE_ROWS), ahead);
    }
    finish_pieces(&pieces);
}
