/* Attention of new tokens over a cache of keys and values in fp32, for model/kv_cache.py.

   Every query row is computed by the same operations in the same order, whether it comes alone or
   within a chunk of a prompt, and whatever else is in the step: the same sequence gives the same
   bits however it was cut up.

   Values are (time, dim) for each head. Keys are in blocks of 16 tokens, (dim, 16) each: one
   vector then holds a dimension of 16 keys, and scores need no sum across a vector. */

#include <stdlib.h>

#include "exp2.h"

#define KEYS 16 /* of a block */
#define ROWS 4  /* query rows that share a pass over keys and values */
#define MIN_WORK 20000

typedef struct {
    float *keys, *values;             /* of one layer */
    int64_t slot_stride, head_stride; /* in floats */
    int64_t heads, dim;
} Cache;

typedef struct {
    int64_t slot, start, length, first; /* `first`: where its tokens stand in the step */
} Segment;

typedef void Head(const float *q, const float *k, const float *v, int64_t stride, float *keys,
                  float *values, int64_t dim, int64_t start, int64_t length, float *scores,
                  float *out, int64_t out_stride);

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

static Head *const heads_of[] = {head_portable, head_avx2, head_avx512};
#else
static Head *const heads_of[] = {head_portable};
#endif

/* Stores k and v, and attends for q: (tokens, heads, dim), `stride` floats from token to token; out
   is contiguous. `path` counts as in int8.c. Returns 0, or -1 without memory. */
int attention(const Cache *cache, const Segment *segments, int64_t count, const float *q,
              const float *k, const float *v, int64_t stride, float *out, int path, int threads)
{
    const int64_t dim = cache->dim, out_stride = cache->heads * dim;
    int64_t work = 0, longest = 0;
    for (int64_t s = 0; s < count; s++) {
        const int64_t end = segments[s].start + segments[s].length;
        work += segments[s].length * end * out_stride;
        longest = end > longest ? end : longest;
    }
    const int64_t buffer = ROWS * (longest + KEYS);
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
            for (int64_t h = 0; h < cache->heads; h++) {
                const Segment *segment = &segments[s];
                const int64_t in = segment->first * stride + h * dim;
                const int64_t place = segment->slot * cache->slot_stride + h * cache->head_stride;
                heads_of[path](q + in, k + in, v + in, stride, cache->keys + place,
                               cache->values + place, dim, segment->start, segment->length, own,
                               out + segment->first * out_stride + h * dim, out_stride);
            }
    }
    free(scores);
    return 0;
}
