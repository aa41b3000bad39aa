/* What Python calls: single layers, and all blocks of a network in one call.

   One call a step: it gives up Python's lock once and starts its threads once, which then go through
   the parts of every block together; see team.h. */

#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

#include "team.h"
#include "kernels.h"

#define VERSION 3       /* of this interface; model/cpu/int8.py expects it */
#define PART 128        /* rows of a piece of a product */
#define PARTS 9         /* of a block of the network */
#define SHORT 2000000   /* nanoseconds; less than a slice of the scheduler's */
#define MIN_WORK 100000 /* products below which waking threads costs more than it saves */

typedef struct {
    const float *weight, *bias;
    float eps;
} Norm;

/* A block of the network. */
typedef struct {
    Norm attention_norm, mlp_norm;
    const Weights *qkv, *out, *up, *down;
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
    Team team;
    const Path *path;
    int64_t rows;
    const Adapters *adapters; /* or NULL */
    Encoded in;
    float *own; /* memory of this thread */
} Worker;

typedef enum { STORE, ADD, GELU } Then; /* what becomes of a product */

static int64_t now(clockid_t clock) /* nanoseconds */
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

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

/* Rows of x (rows, n), through a layer norm if there is one, as linear layer `layer` reads them. */
static void encode_rows(const Worker *me, const float *x, int64_t n, const Norm *norm,
                        int64_t layer, int64_t first, int64_t rows)
{
    const int64_t stride = (n + 3) / 4 * 4;
    x += first * n;
    if (norm) {
        for (int64_t i = 0; i < rows; i++)
            me->path->norm(x + i * n, norm->weight, norm->bias, norm->eps, n, me->own + i * n);
        x = me->own;
    }
    for (int64_t i = 0; i < rows; i++) /* padding meets weights of zero: any bytes will do */
        me->path->quantize(x + i * n, n, me->in.bytes + (first + i) * stride,
                           me->in.steps + first + i, me->in.zeros + first + i);
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
static void encode(Worker *me, const float *x, int64_t n, const Norm *norm, int64_t layer)
{
    if (me->rows == 1) {
        encode_rows(me, x, n, norm, layer, 0, 1);
        return;
    }
    const int64_t each = me->rows < ROWS * me->team.threads ? 1 : ROWS;
    Pieces pieces = pieces_of(&me->team, (me->rows + each - 1) / each);
    for (int64_t i; (i = take(&pieces)) >= 0;)
        encode_rows(me, x, n, norm, layer, i * each, least(each, me->rows - i * each));
    finish(&pieces);
}

/* A block of channels of y (rows, out_features), from the encoded rows from `first` to `end`. While
   they are multiplied, their share of the block `ahead` is fetched. */
static void multiply_block(const Worker *me, const Weights *w, Then then, float *y, int64_t layer,
                           int64_t b, int64_t first, int64_t end, const int8_t *ahead)
{
    const int64_t groups = (w->in_features + 3) / 4, stride = 4 * groups, size = CHANNELS * stride;
    const int64_t tiles = (me->rows + ROWS - 1) / ROWS; /* each fetches a part of a block */
    const int64_t channel = b * CHANNELS, count = least(CHANNELS, w->out_features - channel);
    for (int64_t r = first; r < end; r += ROWS) {
        const int64_t rows = least(ROWS, end - r);
        int32_t sums[ROWS * CHANNELS];
        float out[ROWS * CHANNELS];
        me->path->dot(me->in.bytes + r * stride, stride, w->weight + b * size, groups, rows, sums,
                      ahead + r / ROWS * size / tiles, 4 * CHANNELS / tiles);
        for (int64_t i = 0; i < rows; i++)
            me->path->finish(w, channel, sums + i * CHANNELS, me->in.steps[r + i],
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
            float *to = y + (r + i) * w->out_features + channel;
            for (int64_t c = 0; c < count; c++)
                to[c] = then == ADD ? to[c] + out[i * CHANNELS + c] : out[i * CHANNELS + c];
        }
    }
}

static int64_t blocks_of(const Weights *w) { return (w->out_features + CHANNELS - 1) / CHANNELS; }

/* All of y. The block that is fetched meanwhile is the next one; for the last of a thread's share,
   the first of its share of `next`. */
static void multiply(Worker *me, const Weights *w, Then then, float *y, int64_t layer,
                     const Weights *next)
{
    const int64_t size = CHANNELS * ((w->in_features + 3) / 4 * 4), blocks = blocks_of(w);
    const int64_t parts = (me->rows + PART - 1) / PART;
    const int64_t last = share_of(&me->team, blocks, me->team.number + 1) - 1;
    Pieces pieces = pieces_of(&me->team, blocks * parts);
    for (int64_t i; (i = take(&pieces)) >= 0;) {
        const int64_t b = i / parts, first = i % parts * PART;
        const int8_t *ahead = w->weight + (b + 1) * size;
        if (b == last && next)
            ahead = next->weight + share_of(&me->team, blocks_of(next), me->team.number) *
                                       CHANNELS * next->in_features;
        multiply_block(me, w, then, y, layer, b, first, least(me->rows, first + PART), ahead);
    }
    finish(&pieces);
}

/* Stores k and v of one layer, (tokens, heads, dim), and attends for q, (tokens, heads x group,
   dim): `stride` floats from token to token in all three; out is contiguous. */
static void attend(Worker *me, const Cache *cache, int64_t layer, const Segment *segments,
                   int64_t count, const float *q, const float *k, const float *v, int64_t stride,
                   float *out)
{
    const int64_t dim = cache->dim, cells = cache->heads * dim, width = cells * cache->group;
    Pieces pieces = pieces_of(&me->team, count * cache->heads);
    for (int64_t i; (i = take(&pieces)) >= 0;) {
        const Segment *segment = &segments[i / cache->heads];
        const int64_t number = i % cache->heads, in = segment->first * stride;
        const int64_t at = (layer * cache->layer + number * TOKENS * dim) * (cache->half ? 2 : 4);
        const Head head = {(char *)cache->keys + at, (char *)cache->values + at, TOKENS * cells,
                           segment->blocks, dim, stride, cache->half};
        for (int64_t g = number * cache->group; g < (number + 1) * cache->group; g++)
            me->path->head(&head, q + in + g * dim, k + in + number * dim, v + in + number * dim,
                           segment->start, segment->length, me->own,
                           out + segment->first * width + g * dim, width);
    }
    finish(&pieces);
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
static void all_blocks(Worker *me, const Block *blocks, int64_t count, const Cache *cache,
                       const Segment *segments, int64_t segment_count, float *x, float *qkv,
                       float *attended, float *hidden)
{
    const int64_t width = cache->heads * cache->dim;
    for (int64_t i = 0; i < count; i++) {
        const Block *block = &blocks[i];
        encode(me, x, width, &block->attention_norm, 4 * i);
        multiply(me, block->qkv, STORE, qkv, 4 * i, block->out);
        attend(me, cache, i, segments, segment_count, qkv, qkv + width, qkv + 2 * width, 3 * width,
               attended);
        encode(me, attended, width, NULL, 4 * i + 1);
        multiply(me, block->out, ADD, x, 4 * i + 1, block->up);
        encode(me, x, width, &block->mlp_norm, 4 * i + 2);
        multiply(me, block->up, GELU, hidden, 4 * i + 2, block->down);
        encode(me, hidden, 4 * width, NULL, 4 * i + 3);
        multiply(me, block->down, ADD, x, 4 * i + 3, i + 1 < count ? block[1].qkv : NULL);
    }
}

/* The memory of a step, in floats: the shares of the threads in each part; what is encoded, for each
   thread if it is a single row; what each thread has for itself; and `more`. */
typedef struct {
    int64_t shares, encoded, copies, own, all;
} Sizes;

static Sizes sizes_of(int64_t parts, int64_t rows, int64_t inputs, const Adapters *adapters,
                      int64_t own, int threads, int64_t more)
{
    const int64_t each = (inputs + 3) / 4 + 2 + (adapters ? adapters->rank : 0);
    Sizes sizes = {parts * threads * (int64_t)(sizeof(Share) / sizeof(float)),
                   (rows * each + 15) / 16 * 16, rows == 1 ? threads : 1, (own + 15) / 16 * 16, 0};
    sizes.all = sizes.shares + sizes.copies * sizes.encoded + threads * sizes.own + more;
    return sizes;
}

static float *new_memory(const Sizes *sizes)
{
    float *memory = aligned_alloc(64, (sizes->all * sizeof(float) + 64) / 64 * 64);
    if (memory)
        memset(memory, 0, sizes->shares * sizeof(float));
    return memory;
}

/* Where something else keeps the cores busy, the threads of a call wait for each other longer than
   they help each other: each time for a slice of the scheduler's, some milliseconds. After a call
   whose first thread mostly stood still, `alone` calls are made with one thread; then another one
   tries. The result is the same. */
static atomic_int alone, patience;

static int team_size(int threads, int64_t work)
{
    if (threads == 1 || work < MIN_WORK)
        return 1;
    return atomic_load(&alone) > 0 && atomic_fetch_sub(&alone, 1) > 0 ? 1 : threads;
}

/* What the first thread knows of a call. */
typedef struct {
    int64_t start, cpu, end; /* nanoseconds: on the clock, of this thread; its work done */
} Watch;

static Watch watch(void) { return (Watch){now(CLOCK_MONOTONIC), now(CLOCK_THREAD_CPUTIME_ID), 0}; }

/* After the parallel region. Its end waits with open eyes, so that time counts as standing still. */
static void judge(int threads, const Watch *watch)
{
    if (threads == 1)
        return;
    const int64_t left = now(CLOCK_MONOTONIC), all = left - watch->start;
    const int64_t still = all - (now(CLOCK_THREAD_CPUTIME_ID) - watch->cpu) + left - watch->end;
    if (all < SHORT)
        return;
    const int tried = atomic_load(&patience), stood = 2 * still > all;
    atomic_store(&patience, !stood ? tried / 2 : tried < 8 ? 8 : tried < 256 ? 2 * tried : tried);
    atomic_store(&alone, stood ? atomic_load(&patience) : 0);
}

/* This thread, within a parallel region. */
static Worker this_worker(int path, int64_t rows, int64_t inputs, const Adapters *adapters,
                          const Sizes *sizes, float *memory)
{
    const int64_t number = omp_get_thread_num();
    const Team team = {(Share *)memory, number, omp_get_num_threads()};
    memory += sizes->shares;
    float *encoded = memory + (sizes->copies > 1 ? number : 0) * sizes->encoded;
    float *steps = encoded + rows * ((inputs + 3) / 4);
    const Encoded in = {(uint8_t *)encoded, steps, (int32_t *)(steps + rows), steps + 2 * rows};
    return (Worker){team, kernel_paths[path], rows, adapters, in,
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

/* Weights of single channels, as of an embedding: y (rows, in_features). Returns 0, or -1 if there is
   no such channel. */
int int8_rows(const Weights *w, const int64_t *channels, int64_t rows, float *y)
{
    const int64_t groups = (w->in_features + 3) / 4;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t c = channels[r];
        if (c < 0 || c >= w->out_features)
            return -1;
        const int8_t *four = w->weight + (c / CHANNELS * groups * CHANNELS + c % CHANNELS) * 4;
        for (int64_t i = 0; i < w->in_features; i++)
            y[r * w->in_features + i] = four[i / 4 * 4 * CHANNELS + i % 4] * w->scale[c];
    }
    return 0;
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
    threads = team_size(threads, rows * w->in_features * w->out_features);
    const Sizes sizes = sizes_of(2, rows, w->in_features, NULL, 0, threads, 0);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
    Watch first = watch();
#pragma omp parallel num_threads(threads)
    {
        Worker me = this_worker(path, rows, w->in_features, NULL, &sizes, memory);
        encode(&me, x, w->in_features, NULL, 0);
        multiply(&me, w, STORE, y, 0, NULL);
        if (!me.team.number)
            first.end = now(CLOCK_MONOTONIC);
    }
    judge(threads, &first);
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
    threads = team_size(threads, work * cache->heads * cache->group * cache->dim);
    const Sizes sizes = sizes_of(1, 0, 0, NULL, score_floats(segments, count), threads, 0);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
    Watch first = watch();
#pragma omp parallel num_threads(threads)
    {
        Worker me = this_worker(path, 0, 0, NULL, &sizes, memory);
        attend(&me, cache, layer, segments, count, q, k, v, stride, out);
        if (!me.team.number)
            first.end = now(CLOCK_MONOTONIC);
    }
    judge(threads, &first);
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
    threads = team_size(threads, rows * width * width * count);
    const Sizes sizes = sizes_of(PARTS * count, rows, 4 * width, adapters, own, threads,
                                 8 * rows * width);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
    float *qkv = memory + sizes.all - 8 * rows * width, *attended = qkv + 3 * rows * width;
    Watch first = watch();
#pragma omp parallel num_threads(threads)
    {
        Worker me = this_worker(path, rows, 4 * width, adapters, &sizes, memory);
        all_blocks(&me, blocks, count, cache, segments, segment_count, x, qkv, attended,
                   attended + rows * width);
        if (!me.team.number)
            first.end = now(CLOCK_MONOTONIC);
    }
    judge(threads, &first);
    free(memory);
    return 0;
}
