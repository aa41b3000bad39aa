/* What Python calls: single layers, and all blocks of a network in one call.

   One call a step: it releases the GIL once and starts its threads once, which then go through the
   parts of every block together; see team.h. */

#define _GNU_SOURCE
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#define omp_get_num_threads() 1
#endif

#ifdef __x86_64__
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "team.h"
#include "contention.h"
#include "kernels.h"
#include "linear.h"

#define VERSION 10 /* of this interface; model/cpu/library.py expects it */
#define STAGES 9   /* of a block of the network: each is shared among the threads */

/* A block of the network. */
typedef struct {
    Norm attention_norm, mlp_norm, q_norm, k_norm; /* q_norm and k_norm: of each head, or no weight */
    const Weights *qkv, *out, *up, *down;          /* up: with SwiGLU, gate and up side by side */
} Block;

/* Widths that all blocks share. */
typedef struct {
    int64_t width, hidden; /* of the residual stream, and inside the MLP */
    int64_t swiglu;        /* else GELU */
} Shape;

/* The new tokens of one sequence. */
typedef struct {
    const int32_t *blocks;
    int64_t start, length, first; /* `first`: where its tokens stand in the step */
} Segment;

/* What is computed in one call. */
typedef struct {
    const Segment *segments;
    int64_t segment_count, rows;
    const float *cosines, *sines; /* (rows, dim / 2); NULL: nothing is rotated */
    const Adapters *adapters;     /* or NULL */
} Step;

static int64_t qkv_width(const Cache *cache) { return cache->heads * (cache->group + 2) * cache->dim; }

static int64_t query_width(const Cache *cache) { return cache->heads * cache->group * cache->dim; }

/* Attends in one layer, and stores its keys and values: q (rows, heads x group, dim), k and v
   (rows, heads, dim), `stride` floats from row to row in all three; out is contiguous. Queries and
   keys are turned in place first, as `turn` says. */
static void attend(Worker *me, const Cache *cache, int64_t layer, const Segment *segments,
                   int64_t count, float *q, float *k, float *v, int64_t stride, const Turn *turn,
                   float *out)
{
    const int64_t dim = cache->dim, width = query_width(cache);
    Pieces pieces = pieces_of(&me->team, count * cache->heads);
    for (int64_t i; (i = take(&pieces)) >= 0;) {
        const Segment *segment = &segments[i / cache->heads];
        const int64_t number = i % cache->heads, in = segment->first * stride;
        const int64_t at = (layer * cache->layer + number * TOKENS * dim) * (cache->bf16 ? 2 : 4);
        const int64_t queries = number * cache->group * dim, angles = segment->first * (dim / 2);
        const Head head = {
            .keys = (char *)cache->keys + at,
            .values = (char *)cache->values + at,
            .block = TOKENS * cache->heads * dim,
            .blocks = segment->blocks,
            .start = segment->start,
            .length = segment->length,
            .dim = dim,
            .group = cache->group,
            .q = q + in + queries,
            .k = k + in + number * dim,
            .v = v + in + number * dim,
            .stride = stride,
            .turn = {turn->q_norm, turn->k_norm, turn->cosines ? turn->cosines + angles : NULL,
                     turn->cosines ? turn->sines + angles : NULL},
            .out = out + segment->first * width + queries,
            .out_stride = width,
        };
        me->path->head(&head, cache->bf16, me->own);
    }
    finish_pieces(&pieces);
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

static const Norm *if_any(const Norm *norm) { return norm->weight ? norm : NULL; }

/* All blocks of the network, for x (rows, width), in place. */
static void all_blocks(Worker *me, const Block *blocks, int64_t count, const Shape *shape,
                       const Cache *cache, const Step *step, float *x, float *qkv, float *attended,
                       float *hidden)
{
    const int64_t stride = qkv_width(cache), queries = query_width(cache);
    float *k = qkv + queries, *v = k + cache->heads * cache->dim;
    for (int64_t i = 0; i < count; i++) {
        const Block *block = &blocks[i];
        const Turn turn = {if_any(&block->q_norm), if_any(&block->k_norm), step->cosines,
                           step->sines};
        encode(me, block->qkv, x, &block->attention_norm, 4 * i);
        multiply(me, block->qkv, STORE, qkv, stride, 4 * i, block->out);
        attend(me, cache, i, step->segments, step->segment_count, qkv, k, v, stride, &turn, attended);
        encode(me, block->out, attended, NULL, 4 * i + 1);
        multiply(me, block->out, ADD, x, shape->width, 4 * i + 1, block->up);
        encode(me, block->up, x, &block->mlp_norm, 4 * i + 2);
        multiply(me, block->up, shape->swiglu ? SWIGLU : GELU, hidden, shape->hidden, 4 * i + 2,
                 block->down);
        encode(me, block->down, hidden, NULL, 4 * i + 3);
        multiply(me, block->down, ADD, x, shape->width, 4 * i + 3,
                 i + 1 < count ? block[1].qkv : NULL);
    }
}

/* The memory of a call, in floats: the progress of the threads in each stage; what is encoded, for
   each thread if it is a single row; what each thread has for itself; and `more`. */
typedef struct {
    int64_t progress, encoded, copies, own, all;
} Sizes;

/* Steps of rows with so many bytes; there are as many offsets. */
static int64_t most_steps(int64_t rows, int64_t bytes)
{
    return (rows + TALL - 1) / TALL * TALL * (bytes / GROUP);
}

static Sizes sizes_of(int64_t stages, int64_t rows, int64_t inputs, const Adapters *adapters,
                      int64_t own, int threads, int64_t more)
{
    const int64_t bytes = (inputs + GROUP - 1) / GROUP * GROUP;
    const int64_t steps = most_steps(rows, bytes);
    const int64_t encoded =
        steps * GROUP / 4 + 2 * steps + rows * (adapters ? adapters->rank : 0);
    Sizes sizes = {stages * threads * (int64_t)(sizeof(Progress) / sizeof(float)),
                   (encoded + 15) / 16 * 16, rows == 1 ? threads : 1, (own + 15) / 16 * 16, 0};
    sizes.all = sizes.progress + sizes.copies * sizes.encoded + threads * sizes.own + more;
    return sizes;
}

static float *new_memory(const Sizes *sizes)
{
    float *memory = aligned_alloc(64, (sizes->all * sizeof(float) + 64) / 64 * 64);
    if (memory)
        memset(memory, 0, sizes->progress * sizeof(float));
    return memory;
}

/* This thread, within a parallel region. */
static Worker this_worker(int path, int64_t rows, int64_t inputs, const Adapters *adapters,
                          const Sizes *sizes, float *memory)
{
    const int64_t number = omp_get_thread_num();
    const Team team = {(Progress *)memory, number, omp_get_num_threads()};
    memory += sizes->progress;
    float *encoded = memory + (sizes->copies > 1 ? number : 0) * sizes->encoded;
    const int64_t bytes = (inputs + GROUP - 1) / GROUP * GROUP;
    const int64_t count = most_steps(rows, bytes);
    float *steps = encoded + count * GROUP / 4, *zeros = steps + count;
    const Encoded in = {(uint8_t *)encoded, steps, (int32_t *)zeros, zeros + count};
    return (Worker){team, kernel_paths[path], rows, adapters, in,
                    memory + sizes->copies * sizes->encoded + number * sizes->own};
}

int int8_version(void) { return VERSION; }

#ifdef __x86_64__
/* Whether the processor has AMX for bytes (bits 24 and 25 of leaf 7), and Linux lets this process
   use it, which it has to be asked for once. */
static int may_use_tiles(void)
{
    unsigned a, b, c, d = 0;
    const unsigned both = 3u << 24;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & both) != both)
        return 0;
#ifdef __linux__
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
#else
    return 0;
#endif
}
#endif

/* The paths this processor can run, a bit for each: portable, AVX2 with FMA and F16C, AVX-VNNI, AVX-512
   with VNNI, and that with AMX. Server processors with AVX-512 often lack AVX-VNNI. */
int int8_paths(void)
{
    int able = 1;
#ifdef __x86_64__
    /* Not all compilers know F16C by its name, nor AVX-VNNI, bit 4 of leaf 7.1. */
    unsigned a, b, features = 0, d, more = 0, c;
    __get_cpuid(1, &a, &b, &features, &d);
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !(features & bit_F16C))
        return able;
    able |= 1 << 1;
    if (kernel_paths[2] && __get_cpuid_count(7, 1, &more, &b, &c, &d) && more & 1 << 4)
        able |= 1 << 2;
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni")) {
        able |= 1 << 3;
        if (kernel_paths[4] && may_use_tiles())
            able |= 1 << 4;
    }
#endif
    return able;
}

/* The weight of channel `c`, which is in `block`, for input `i`. */
static float weight_at(const Weights *w, const uint8_t *block, int64_t c, int64_t i)
{
    const int64_t in_block = c % CHANNELS;
    if (w->kind == PLAIN)
        return (int8_t)block[(i / 4 * CHANNELS + in_block) * 4 + i % 4] * w->scale[c];
    const uint8_t *group = block + i / GROUP * group_size(w);
    const int64_t four = i % (has_nibbles(w) ? HALF : GROUP) / 4;
    const int byte = group[(four * CHANNELS + in_block) * 4 + i % 4];
    if (has_nibbles(w)) {
        float scale, minimum;
        scale_and_minimum(block, groups_of(w), i / GROUP, w->kind == NESTED, in_block, &scale,
                          &minimum);
        return (i % GROUP < HALF ? byte & 15 : byte >> 4) * scale + minimum;
    }
    const uint8_t *scale = group + GROUP * CHANNELS + 2 * in_block;
    return (byte - 128) * (w->kind == HALVES ? fp16_at(scale) : bf16_at(scale));
}

/* Weights of single channels, as of an embedding: y (rows, in_features). Returns 0, or -1 if there is
   no such channel. */
int int8_rows(const Weights *w, const int64_t *channels, int64_t rows, float *y)
{
    for (int64_t r = 0; r < rows; r++) {
        const int64_t c = channels[r];
        if (c < 0 || c >= w->out_features)
            return -1;
        const uint8_t *block = (const uint8_t *)w->weight + c / CHANNELS * size_of(w);
        for (int64_t i = 0; i < w->in_features; i++)
            y[r * w->in_features + i] = weight_at(w, block, c, i);
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
    threads = threads_for(threads, rows * w->in_features * w->out_features);
    const Sizes sizes = sizes_of(2, rows, w->in_features, NULL, 0, threads, 0);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
    CallTimes times = call_begins();
#pragma omp parallel num_threads(threads)
    {
        Worker me = this_worker(path, rows, w->in_features, NULL, &sizes, memory);
        encode(&me, w, x, NULL, 0);
        multiply(&me, w, STORE, y, w->out_features, 0, NULL);
        if (!me.team.number)
            times.done = now(CLOCK_MONOTONIC);
    }
    call_ends(threads, &times);
    free(memory);
    return 0;
}

/* Attention of one layer; see `attend`. q, k and v stay as they are. Returns 0, or -1 without
   memory. */
int attention(const Cache *cache, int64_t layer, const Segment *segments, int64_t count, float *q,
              float *k, float *v, int64_t stride, float *out, int path, int threads)
{
    int64_t work = 0;
    for (int64_t s = 0; s < count; s++)
        work += segments[s].length * (segments[s].start + segments[s].length);
    threads = threads_for(threads, work * query_width(cache));
    const Sizes sizes = sizes_of(1, 0, 0, NULL, score_floats(segments, count), threads, 0);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
    const Turn turn = {NULL, NULL, NULL, NULL};
    CallTimes times = call_begins();
#pragma omp parallel num_threads(threads)
    {
        Worker me = this_worker(path, 0, 0, NULL, &sizes, memory);
        attend(&me, cache, layer, segments, count, q, k, v, stride, &turn, out);
        if (!me.team.number)
            times.done = now(CLOCK_MONOTONIC);
    }
    call_ends(threads, &times);
    free(memory);
    return 0;
}

/* All blocks of the network, for x (rows, width), in place. Returns 0, or -1 without memory. */
int network(const Block *blocks, int64_t count, const Shape *shape, const Cache *cache,
            const Step *step, float *x, int path, int threads)
{
    const int64_t rows = step->rows, queries = query_width(cache);
    int64_t widest = shape->width > shape->hidden ? shape->width : shape->hidden;
    widest = widest > queries ? widest : queries;
    int64_t own = score_floats(step->segments, step->segment_count);
    own = own > ROWS * shape->width ? own : ROWS * shape->width;
    threads = threads_for(threads, rows * shape->width * widest * count);
    const int64_t between = rows * (qkv_width(cache) + queries + shape->hidden);
    const Sizes sizes =
        sizes_of(STAGES * count, rows, widest, step->adapters, own, threads, between);
    float *memory = new_memory(&sizes);
    if (!memory)
        return -1;
    float *qkv = memory + sizes.all - between, *attended = qkv + rows * qkv_width(cache);
    CallTimes times = call_begins();
#pragma omp parallel num_threads(threads)
    {
        Worker me = this_worker(path, rows, widest, step->adapters, &sizes, memory);
        all_blocks(&me, blocks, count, shape, cache, step, x, qkv, attended,
                   attended + rows * queries);
        if (!me.team.number)
            times.done = now(CLOCK_MONOTONIC);
    }
    call_ends(threads, &times);
    free(memory);
    return 0;
}
