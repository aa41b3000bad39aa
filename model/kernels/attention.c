/* Attention of new tokens over a cache of keys and values, for model/kernels/attention.py.

   Every query row is computed by the same operations in the same order, whether it comes alone or
   within a chunk of a prompt, and whatever else is in the step: the same sequence gives the same
   bits however it was cut up. So all new keys and values are stored first, and read back as they
   were rounded. Nothing is read that was not written.

   The cache is in blocks of 16 tokens. In a block, the values of a head are (16, dim), but its keys
   are (dim, 16): one vector then holds a dimension of 16 keys, and scores need no sum across a
   vector. Cells are fp32 or bf16; arithmetic is in fp32. */

#include <stdlib.h>

#include "exp2.h"

#define TOKENS 16 /* of a block */
#define ROWS 4    /* query rows that share a pass over keys and values */
#define MIN_WORK 20000

typedef struct {
    void *keys, *values; /* (layer, block, head, TOKENS * dim) */
    int64_t blocks, heads, dim;
    int64_t half; /* whether cells are bf16 */
} Cache;

typedef struct {
    const int32_t *blocks;
    int64_t start, length, first; /* `first`: where its tokens stand in the step */
} Segment;

/* One head of one sequence. */
typedef struct {
    void *keys, *values; /* of this head in block 0 */
    int64_t block;       /* cells from block to block */
    const int32_t *blocks;
    int64_t dim, stride; /* `stride`: floats from token to token of q, k and v */
    int64_t half;
} Head;

typedef void HeadPath(const Head *h, const float *q, const float *k, const float *v, int64_t start,
                      int64_t length, float *scores, float *out, int64_t out_stride);

/* To the nearest, ties to even. */
static inline __attribute__((always_inline)) uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (uint16_t)(x == x ? rounded : 0x7FC0);
}

static inline __attribute__((always_inline)) void store(void *cells, int64_t at, float x,
                                                        const int half)
{
    if (half)
        ((uint16_t *)cells)[at] = to_bf16(x);
    else
        ((float *)cells)[at] = x;
}

/* The same functions for each instruction set: its vectors are LANES floats, and its registers
   hold the sums of ROWS rows x 16 PARTS dimensions. */
#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)
#define LANES 4
#define PARTS 1
#define PATH _portable
#define ATTRIBUTES
#include "attention_tile.h"

#ifdef __x86_64__
#define LANES 8
#define PARTS 1
#define PATH _avx2
#define ATTRIBUTES __attribute__((target("avx2")))
#include "attention_tile.h"

#define LANES 16
#define PARTS 4
#define PATH _avx512
#define ATTRIBUTES __attribute__((target("avx512f,avx512bw,avx512vl")))
#include "attention_tile.h"

static HeadPath *const heads_of[] = {head_portable, head_avx2, head_avx512};
#else
static HeadPath *const heads_of[] = {head_portable};
#endif

/* Stores k and v, and attends for q: (tokens, heads, dim), `stride` floats from token to token; out
   is contiguous. `path` counts as in int8.c. Returns 0, or -1 without memory. */
int attention(const Cache *cache, int64_t layer, const Segment *segments, int64_t count,
              const float *q, const float *k, const float *v, int64_t stride, float *out, int path,
              int threads)
{
    const int64_t dim = cache->dim, out_stride = cache->heads * dim;
    const int64_t block = cache->heads * TOKENS * dim, size = cache->half ? 2 : 4;
    int64_t work = 0, longest = 0;
    for (int64_t s = 0; s < count; s++) {
        const int64_t end = segments[s].start + segments[s].length;
        work += segments[s].length * end * out_stride;
        longest = end > longest ? end : longest;
    }
    const int64_t buffer = ROWS * (longest + TOKENS);
    if (work < MIN_WORK)
        threads = 1;
    float *scores = malloc(threads * buffer * sizeof(float)), *next = scores;
    if (!scores)
        return -1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *own;
#pragma omp critical
        {
            own = next;
            next += buffer;
        }
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t s = 0; s < count; s++)
            for (int64_t i = 0; i < cache->heads; i++) {
                const Segment *segment = &segments[s];
                const int64_t in = segment->first * stride + i * dim;
                const int64_t at = (layer * cache->blocks * block + i * TOKENS * dim) * size;
                const Head head = {(char *)cache->keys + at, (char *)cache->values + at, block,
                                   segment->blocks, dim, stride, cache->half};
                heads_of[path](&head, q + in, k + in, v + in, segment->start, segment->length, own,
                               out + segment->first * out_stride + i * dim, out_stride);
            }
    }
    free(scores);
    return 0;
}
