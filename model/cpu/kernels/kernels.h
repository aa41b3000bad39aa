/* What the C files share: the layout of everything, and the functions of an instruction set.

   Every row is computed by the same operations in the same order, whether it comes alone, among
   others, or within a chunk of a prompt, by however many threads and on every path: the same
   sequence gives the same bits. So there is no fused multiply-add (keep -ffp-contract=off), sums of
   floats have a fixed shape of 16 lanes, and sums of bytes are exact. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define CHANNELS 64 /* of a block of weights */
#define ROWS 4      /* of a tile: its 4 x 64 sums fill 16 of AVX-512's 32 registers */
#define TOKENS 16   /* of a block of the cache */

/* A linear layer y = x W^T + b with 8-bit weights, which have one scale per output channel. They
   are in blocks of 64 channels, read from front to back,

       block (groups, 64, 4): for each group of 4 inputs, those 4 weights of channel 0, of 1, ...

   because `vpdpbusd` multiplies 16 channels x 4 inputs of weights by 4 inputs of x, repeated, and
   adds them up in 16 sums. Channels are padded to whole blocks, inputs to whole groups (zeros). */
typedef struct {
    const int8_t *weight;
    const float *scale;     /* of each channel; this, sums and bias are padded as channels are */
    const int32_t *sums;    /* of each channel's weights, to take the zero point out */
    const float *bias;
    int64_t in_features, out_features;
} Weights;

/* An adapter's change of one linear layer, y += B (A x). */
typedef struct {
    const float *a; /* A: (in_features, rank), the rank padded to a multiple of 16 */
    const float *b; /* B times the adapter's scale, in blocks (rank, 64) as channels are */
    int64_t rank;   /* 0: the layer is not changed */
} Pair;

/* Keys and values in blocks of 16 tokens. In a block, the values of a head are (16, dim), but its
   keys are (dim, 16): one vector then holds a dimension of 16 keys, and scores need no sum across a
   vector. Cells are fp32 or bf16; arithmetic is in fp32. */
typedef struct {
    void *keys, *values;       /* (layer, block, head, TOKENS * dim) */
    int64_t layer, heads, dim; /* `layer`: cells from layer to layer */
    int64_t group;             /* query heads that share the keys of a head */
    int64_t half;              /* whether cells are bf16 */
} Cache;

/* One head of one sequence. */
typedef struct {
    void *keys, *values; /* of this head in block 0 */
    int64_t block;       /* cells from block to block */
    const int32_t *blocks;
    int64_t dim, stride; /* `stride`: floats from token to token of q, k and v */
    int64_t half;
} Head;

typedef struct {
    /* Layer norm of one row; n is a multiple of 16. */
    void (*norm)(const float *x, const float *weight, const float *bias, float eps, int64_t n,
                 float *y);
    /* Bytes u and (step, zero) with x ~ step * (u - zero); 0 is kept exactly. A row with an infinity
       or a NaN gets the step NaN, which makes every output of it NaN, as in floating point. */
    void (*quantize)(const float *x, int64_t n, uint8_t *u, float *step, int32_t *zero);
    /* `rows` (up to ROWS) rows of x, `stride` bytes apart, times one block of weights, into sums
       (rows, CHANNELS). Meanwhile it may fetch `ahead` from memory, `step` bytes for each group. */
    void (*dot)(const uint8_t *x, int64_t stride, const int8_t *w, int64_t groups, int rows,
                int32_t *sums, const int8_t *ahead, int64_t step);
    /* CHANNELS outputs of a row, from channel `first` on. */
    void (*finish)(const Weights *w, int64_t first, const int32_t *sums, float step, int32_t zero,
                   float *y);
    void (*gelu)(float *x, int64_t n);
    /* low (rows, `rank`) = x A^T for rows of n inputs; n is a multiple of 16. */
    void (*down)(const Pair *pair, const float *x, int64_t n, int rows, float *low, int64_t rank);
    /* y (rows, CHANNELS) += low B^T, for block number `block`. */
    void (*up)(const Pair *pair, int64_t block, const float *low, int64_t rank, int rows, float *y);
    /* Stores the keys and values of `length` new tokens after `start` cached ones, and attends. */
    void (*head)(const Head *h, const float *q, const float *k, const float *v, int64_t start,
                 int64_t length, float *scores, float *out, int64_t out_stride);
} Path;

extern const Path *const kernel_paths[]; /* portable, AVX2, AVX-512 with VNNI */
