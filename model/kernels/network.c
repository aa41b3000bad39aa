/* What Python calls: single layers, and all blocks of a network in one call.

   One call a step: it gives up Python's lock once, starts its threads once, and they meet at gates
   between the parts of a block. With threads of their own share in every part, nobody has to be told
   what to do. */

#define _GNU_SOURCE
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

#include "gate.h"
#include "kernels.h"

#define VERSION 2       /* of this interface; model/kernels/int8.py expects it */
#define MIN_WORK 100000 /* products below which waking threads costs more than it saves */

typedef struct {
    const float *weight, *bias;
    float eps;
} Norm;

/* A block of the network. */
typedef struct {
    Norm norm_1, norm_2;
    const Weights *qkv, *projection, *expand, *contract;
} Block;

typedef struct {
    const int32_t *blocks;
    int64_t start, length, first; /* `first`: where its tokens stand in the step */
} Segment;

/* Whose adapter each row gets. */
typedef struct {
    const int32_t *of_row;    /* index in `pairs`, or -1 */
    const Pair *const *pairs; /* of each adapter: for the four layers of every block */
    int64_t rank;             /* the largest, padded */
} Adapters;

/* The rows that a linear layer reads. */
typedef struct {
    uint8_t *bytes;
    float *steps;
    int32_t *zeros;
    float *low; /* A x of each row's adapter */
} Encoded;

/* A thread among those that compute a step. */
typedef struct {
    const Path *path;
    Gate *gate;
    int64_t number, threads, rows;
    const Adapters *adapters; /* or NULL */
    Encoded in;
    float *own; /* memory of this thread */
} Worker;

typedef enum { STORE, ADD, GELU } Then;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Where the share of thread `number` of `total` things begins. */
static int64_t share(const Worker *me, int64_t total, int64_t number)
{
    return total * number / me->threads;
}

static void meet(const Worker *me) { pass(me->gate, me->threads); }

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

/* Rows of x (rows, n), through a layer norm if there is one, as linear layer `layer` reads them. A
   single row is encoded by every thread for itself: that takes less than to meet. */
static void encode(const Worker *me, const float *x, int64_t n, const Norm *norm, int64_t layer)
{
    const int alone = me->rows == 1;
    const int64_t stride = (n + 3) / 4 * 4;
    const int64_t end = alone ? 1 : share(me, me->rows, me->number + 1);
    for (int64_t r = alone ? 0 : share(me, me->rows, me->number); r < end; r += ROWS) {
        const int64_t rows = least(ROWS, end - r);
        const float *from = x + r * n;
        if (norm) {
            for (int64_t i = 0; i < rows; i++)
                me->path->norm(from + i * n, norm->weight, norm->bias, norm->eps, n,
                               me->own + i * n);
            from = me->own;
        }
        for (int64_t i = 0; i < rows; i++) /* padding meets weights of zero: any bytes will do */
            me->path->quantize(from + i * n, n, me->in.bytes + (r + i) * stride,
                               me->in.steps + r + i, me->in.zeros + r + i);
        const Pair *pair;
        for (int64_t i = 0, run; me->adapters && i < rows; i += run) {
            run = run_of(me->adapters, r + i, r + rows, layer, &pair);
            if (pair)
                me->path->down(pair, from + i * n, n, run,
                               me->in.low + (r + i) * me->adapters->rank, me->adapters->rank);
        }
    }
    if (!alone)
        meet(me);
}

/* y (rows, out_features) from the encoded rows; each thread has its share of the channels. While it
   multiplies a block of weights it fetches the one after, at last the first one of `next`. */
static void multiply(const Worker *me, const Weights *w, Then then, float *y, int64_t layer,
                     const Weights *next)
{
    const int64_t groups = (w->in_features + 3) / 4, stride = 4 * groups, size = CHANNELS * stride;
    const int64_t blocks = (w->out_features + CHANNELS - 1) / CHANNELS;
    const int64_t tiles = (me->rows + ROWS - 1) / ROWS; /* each fetches a part of a block */
    const int64_t end = share(me, blocks, me->number + 1);
    for (int64_t b = share(me, blocks, me->number); b < end; b++) {
        const int8_t *block = w->weight + b * size, *ahead = block + size;
        if (b == end - 1 && next)
            ahead = next->weight + share(me, (next->out_features + CHANNELS - 1) / CHANNELS,
                                         me->number) * CHANNELS * ((next->in_features + 3) / 4 * 4);
        const int64_t first = b * CHANNELS, count = least(CHANNELS, w->out_features - first);
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t r = t * ROWS, rows = least(ROWS, me->rows - r);
            int32_t sums[ROWS * CHANNELS];
            float out[ROWS * CHANNELS];
            me->path->dot(me->in.bytes + r * stride, stride, block, groups, rows, sums,
                          ahead + t * size / tiles, 4 * CHANNELS / tiles);
            for (int64_t i = 0; i < rows; i++)
                me->path->finish(w, first, sums + i * CHANNELS, me->in.steps[r + i],
                                 me->in.zeros[r + i], out + i * CHANNELS);
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
                float *to = y + (r + i) * w->out_features + first;
                for (int64_t c = 0; c < count; c++)
                    to[c] = then == ADD ? to[c] + out[i * CHANNELS + c] : out[i * CHANNELS + c];
            }
        }
    }
}

/* Stores k and v of one layer, and attends for q: (tokens, heads, dim), `stride` floats from token
   to token; out is contiguous. */
static void attend(const Worker *me, const Cache *cache, int64_t layer, const Segment *segments,
                   int64_t count, const float *q, const float *k, const float *v, int64_t stride,
                   float *out)
{
    const int64_t dim = cache->dim, width = cache->heads * dim;
    for (int64_t i = me->number; i < count * cache->heads; i += me->threads) {
        const Segment *segment = &segments[i / cache->heads];
        const int64_t number = i % cache->heads, in = segment->first * stride + number * dim;
        const int64_t at = (layer * cache->layer + number * TOKENS * dim) * (cache->half ? 2 : 4);
        const Head head = {(char *)cache->keys + at, (char *)cache->values + at, TOKENS * width,
                           segment->blocks, dim, stride, cache->half};
        me->path->head(&head, q + in, k + in, v + in, segment->start, segment->length, me->own,
                       out + segment->first * width + number * dim, width);
    }
}

/* Floats that attention needs of each thread. */
static int64_t score_floats(const Segment *segments, int64_t count)
{
    int64_t longest = 0;
    for (int64_t s = 0; s < count; s++)
        if (segments[s].start + segments[s].length > longest)
            longest = segments[s].start + segments[s].length;
    return ROWS * (longest + TOKENS);
}

/* All blocks of the network, for x (rows, width), in place. */
static void all_blocks(const Worker *me, const Block *blocks, int64_t count, const Cache *cache,
                       const Segment *segments, int64_t segment_count, float *x, float *qkv,
                       float *attended, float *hidden)
{
    const int64_t width = cache->heads * cache->dim;
    for (int64_t i = 0; i < count; i++) {
        const Block *block = &blocks[i];
        encode(me, x, width, &block->norm_1, 4 * i);
        multiply(me, block->qkv, STORE, qkv, 4 * i, block->projection);
        meet(me);
        attend(me, cache, i, segments, segment_count, qkv, qkv + width, qkv + 2 * width, 3 * width,
               attended);
        meet(me);
        encode(me, attended, width, NULL, 4 * i + 1);
        multiply(me, block->projection, ADD, x, 4 * i + 1, block->expand);
        meet(me);
        encode(me, x, width, &block->norm_2, 4 * i + 2);
        multiply(me, block->expand, GELU, hidden, 4 * i + 2, block->contract);
        meet(me);
        encode(me, hidden, 4 * width, NULL, 4 * i + 3);
        multiply(me, block->contract, ADD, x, 4 * i + 3, i + 1 < count ? block[1].qkv : NULL);
        meet(me);
    }
}

/* The memory of a step, in floats: what is encoded, for each thread if it is a single row; then
   what each thread has for itself; then `more`. */
typedef struct {
    int64_t encoded, copies, own, all;
} Sizes;

static Sizes sizes_of(int64_t rows, int64_t inputs, const Adapters *adapters, int64_t own,
                      int threads, int64_t more)
{
    const int64_t each = (inputs + 3) / 4 + 2 + (adapters ? adapters->rank : 0);
    Sizes sizes = {(rows * each + 15) / 16 * 16, rows == 1 ? threads : 1, (own + 15) / 16 * 16, 0};
    sizes.all = sizes.copies * sizes.encoded + threads * sizes.own + more;
    return sizes;
}

static float *new_memory(const Sizes *sizes)
{
    return aligned_alloc(64, (sizes->all * sizeof(float) + 64) / 64 * 64);
}

/* This thread, within a parallel region. */
static Worker this_worker(int path, Gate *gate, int64_t rows, int64_t inputs,
                          const Adapters *adapters, const Sizes *sizes, float *memory)
{
    const int64_t number = omp_get_thread_num();
    float *encoded = memory + (sizes->copies > 1 ? number : 0) * sizes->encoded;
    float *steps = encoded + rows * ((inputs + 3) / 4);
    const Encoded in = {(uint8_t *)encoded, steps, (int32_t *)(steps + rows), steps + 2 * rows};
    return (Worker){kernel_paths[path], gate, number, omp_get_num_threads(), rows, adapters, in,
                    memory + sizes->copies * sizes->encoded + number * sizes->own};
}

int int8_version(void) { return VERSION; }

/* The number of paths this processor can run: portable, then AVX2, then AVX-512 with VNNI. */
int int8_paths(void)
{
#ifdef __x86_64__
    if (!__builtin_cpu_supports("avx2"))
        return 1;
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512vnni") ? 3 : 2;
#else
    return 1;
#endif
}

/* GELU of n numbers, in place. */
void int8_gelu(float *x, int64_t n, int path, int threads)
{
    const int64_t part = 16384, parts = (n + part - 1) / part;
#pragma omp parallel for num_threads(threads) schedule(static) if (parts > 4)
    for (int64_t p = 0; p < parts; p++)
        kernel_paths[path]->gelu(x + p * part, least(part, n - p * part));
}

/* y (rows, out_features) = x (rows, in_features) W^T + b. Returns 0, or -1 without memory. */
int int8_linear(const Weights *w, const float *x, int64_t rows, float *y, int path, int threads)
{
    if (rows * w->in_features * w->out_features < MIN_WORK)
        threads = 1;
    Gate gate = {0};
    const Sizes sizes = sizes_of(rows, w->in_features, NULL, 0, threads, 0);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
#pragma omp parallel num_threads(threads)
    {
        const Worker me = this_worker(path, &gate, rows, w->in_features, NULL, &sizes, memory);
        encode(&me, x, w->in_features, NULL, 0);
        multiply(&me, w, STORE, y, 0, NULL);
    }
    free(memory);
    return 0;
}

/* Attention of one layer; see `attend`. Returns 0, or -1 without memory. */
int attention(const Cache *cache, int64_t layer, const Segment *segments, int64_t count,
              const float *q, const float *k, const float *v, int64_t stride, float *out, int path,
              int threads)
{
    int64_t work = 0;
    for (int64_t s = 0; s < count; s++)
        work += segments[s].length * (segments[s].start + segments[s].length);
    if (work * cache->heads * cache->dim < MIN_WORK)
        threads = 1;
    const Sizes sizes = sizes_of(0, 0, NULL, score_floats(segments, count), threads, 0);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
#pragma omp parallel num_threads(threads)
    {
        const Worker me = this_worker(path, NULL, 0, 0, NULL, &sizes, memory);
        attend(&me, cache, layer, segments, count, q, k, v, stride, out);
    }
    free(memory);
    return 0;
}

/* All blocks of the network, for x (rows, width), in place. Returns 0, or -1 without memory. */
int network(const Block *blocks, int64_t count, const Cache *cache, const Segment *segments,
            int64_t segment_count, const Adapters *adapters, float *x, int64_t rows, int path,
            int threads)
{
    const int64_t width = cache->heads * cache->dim;
    int64_t own = score_floats(segments, segment_count);
    own = own > ROWS * width ? own : ROWS * width;
    if (rows * width * width * count < MIN_WORK)
        threads = 1;
    Gate gate = {0};
    const Sizes sizes = sizes_of(rows, 4 * width, adapters, own, threads, 8 * rows * width);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
    float *qkv = memory + sizes.all - 8 * rows * width, *attended = qkv + 3 * rows * width;
#pragma omp parallel num_threads(threads)
    {
        const Worker me = this_worker(path, &gate, rows, 4 * width, adapters, &sizes, memory);
        all_blocks(&me, blocks, count, cache, segments, segment_count, x, qkv, attended,
                   attended + rows * width);
    }
    free(memory);
    return 0;
}
