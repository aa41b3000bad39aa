/* What the C files share: the layout of everything, and the functions of an instruction set.

   Every row is computed by the same operations in the same order, whether it comes alone, among
   others, or within a chunk of a prompt, by however many threads and on every path: the same
   sequence gives the same bits. So a multiply-add is fused where `fused` says so, and nowhere else
   (keep -ffp-contract=off), sums of floats have a fixed shape of 16 lanes, and sums of bytes are
   exact. (Loops of training alone, in gradients.h, have other sums on another path.) */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#define CHANNELS 64 /* of a block of weights */
#define ROWS 4      /* of a tile: its 4 x 64 sums fill 16 of AVX-512's 32 registers */
#define TALL 16     /* rows of a tile where layers are grouped: weights are unpacked once for it, */
#define TALLEST 64  /* and with AMX for so many */
#define TOKENS 16   /* of a block of the cache */
#define GROUP 32    /* inputs that have a scale, in a grouped layer: those of a channel, and of a row */
#define HALF 16     /* of a group: 4-bit weights for these are in the low halves of their bytes */
#define SUPER 8     /* groups whose scales have a scale, in a nested layer */
/* Of a block's group: weights, scales of 16 bits; or 4-bit weights, fp16 scales and minima; or 4-bit
   weights, scales and minima of a byte. */
#define GROUP_BYTES (GROUP * CHANNELS + 2 * CHANNELS)
#define NIBBLE_BYTES (GROUP / 2 * CHANNELS + 4 * CHANNELS)
#define NESTED_BYTES (GROUP / 2 * CHANNELS + 2 * CHANNELS)

/* A linear layer y = x W^T + b with 8- or 4-bit weights, in blocks of 64 channels, which are read
   from front to back:

       block (fours, 64, 4): for each four inputs, those 4 weights of channel 0, of 1, ...

   because `vpdpbusd` multiplies 16 channels x 4 inputs of weights by 4 inputs of x, repeated, and
   adds them up in 16 sums. Channels are padded to whole blocks, inputs to whole fours (zeros).

   There are three kinds. In the plain one each output channel has a scale, and so has each row of
   activations: bytes from 0 to 255 and a zero point, which use their range whichever side of zero
   they are on. In a *grouped* layer each 32 inputs of a channel have a scale, in bf16 behind their
   weights, and each 32 of a row: there one large number does not make the others coarse. As
   `vpdpbusd` takes one factor with a sign and one without, the weights are stored without: 128 higher
   than they are. What that adds, 128 times the sum of the activations, is the same for all channels
   and taken out again.

   A layer of *nibbles* is grouped, too, but a weight is d q + m, q from 0 to 15, with a scale d and
   a minimum m of each group, in fp16: what GGUF's Q4_1 has, and Q4_0 where m is -8 d. A byte has
   two weights:

       group (fours, 64, 4): input 4 f + i in the low half, input 16 + 4 f + i in the high half

   so that what is loaded at once serves both halves. The minimum of a channel meets the sum of the
   row's group alone. In a *nested* one, d and m are whole numbers of a byte times an fp16 scale of
   8 groups, one for each of the two, as in GGUF's Q4_K. These stand behind all groups of the block;
   both products are exact in fp32.

   *Halves* are a grouped layer whose scales are in fp16, as GGUF's Q8_0 has them. For weights that
   come with no scales bf16 does better: it has no end, and small groups keep their digits. */
typedef enum { PLAIN, GROUPED, NIBBLES, HALVES, NESTED } Kind;

typedef struct {
    const void *weight;   /* plain: int8_t; grouped: GROUP_BYTES for each group, uint8_t then
                             scales; nibbles: NIBBLE_BYTES for each;
                             nested: NESTED_BYTES, and then 4 CHANNELS for each SUPER */
    const float *scale;   /* of each channel; this, sums and bias are padded as channels are */
    const int32_t *sums;  /* of each channel's weights, to take the zero point out */
    const float *bias;
    int64_t in_features, out_features;
    int64_t kind;         /* there are scales and sums of whole channels in a plain one alone */
} Weights;

/* An fp16 number in the bytes of a layer, exact whether or not the processor takes small
   floats for zeros. */
static inline float fp16_at(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, 2);
    const uint32_t size = half & 0x7FFF;
    float number = (float)size * 0x1p-24f; /* subnormal */
    if (size >= 0x400) {
        const uint32_t rebased = (size << 13) + ((size >= 0x7C00 ? 224u : 112u) << 23);
        memcpy(&number, &rebased, 4);
    }
    return half & 0x8000 ? -number : number;
}

/* A bf16 number in the bytes of a grouped layer. */
static inline float bf16_at(const uint8_t *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, 2);
    const uint32_t bits = (uint32_t)half << 16;
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

/* The scales of 4-bit channels from `c` on: those of group `g` in a block of nibbles, and what is
   behind the groups of a nested one. The minima are behind
   CHANNELS scales. */
static inline const uint8_t *own_scales(const uint8_t *w, int64_t g, int nested, int64_t c)
{
    return w + g * (nested ? NESTED_BYTES : NIBBLE_BYTES) + HALF * CHANNELS + (nested ? c : 2 * c);
}

static inline const uint8_t *super_scales(const uint8_t *w, int64_t groups, int64_t g, int64_t c)
{
    return w + groups * NESTED_BYTES + g / SUPER * 4 * CHANNELS + 2 * c;
}

/* The scale and the minimum of channel `c`, in fp32. */
static inline void scale_and_minimum(const uint8_t *w, int64_t groups, int64_t g, int nested,
                                     int64_t c, float *scale, float *minimum)
{
    const uint8_t *own = own_scales(w, g, nested, c), *super = super_scales(w, groups, g, c);
    *scale = nested ? fp16_at(super) * own[0] : fp16_at(own);
    *minimum = nested ? fp16_at(super + 2 * CHANNELS) * own[CHANNELS] : fp16_at(own + 2 * CHANNELS);
}

/* a b + c, rounded once, whether or not the processor can: in fp64 the product is exact, and a sum
   that is not is made odd, so that rounding it again takes the right side. */
static inline float fused_number(float a, float b, float c)
{
#ifdef __FP_FAST_FMAF
    return __builtin_fmaf(a, b, c);
#else
    const double product = (double)a * b;
    double sum = product + c;
    const double part = sum - product, error = (product - (sum - part)) + (c - part);
    uint64_t bits;
    memcpy(&bits, &sum, 8);
    if ((error > 0 || error < 0) && !(bits & 1))
        bits += (error > 0) == (sum > 0) ? 1 : -1;
    memcpy(&sum, &bits, 8);
    return (float)sum;
#endif
}

/* The sum of a row's numbers in a group, by which a layer of nibbles multiplies the minimum; see
   `sum_groups` in linear.h. */
static inline float row_sum_at(const int32_t *row_sums)
{
    float sum;
    memcpy(&sum, row_sums, sizeof(sum));
    return sum;
}

/* An adapter's change of one linear layer, y += B (A x), and then y += gain y + shift if there is a
   gain. */
typedef struct {
    const float *a; /* A: (in_features, rank), the rank padded to a multiple of 16 */
    const float *b; /* B times the adapter's scale, in blocks (rank, 64) as channels are */
    int64_t rank;   /* 0: the layer is not changed */
    const float *gain, *shift; /* of each channel, padded as channels are; or NULL */
} Pair;

/* Keys and values in blocks of 16 tokens. In a block, the values of a head are (16, dim), but its
   keys are (dim, 16): one vector then holds a dimension of 16 keys, and scores need no sum across a
   vector. Cells are fp32 or bf16; arithmetic is in fp32. */
typedef struct {
    void *keys, *values;       /* (layer, block, head, TOKENS * dim) */
    int64_t layer, heads, dim; /* `layer`: cells from layer to layer */
    int64_t group;             /* query heads that share the keys of a head */
    int64_t bf16;              /* whether cells are bf16 */
} Cache;

typedef struct {
    const float *weight, *bias; /* without a bias it is an RMS norm */
    float eps;
} Norm;

/* What happens to queries and keys before they meet: an RMS norm of each head, and the rotation of
   the pairs (x[i], x[i + dim / 2]) by their token's angles. Either may be missing (NULL). */
typedef struct {
    const Norm *q_norm, *k_norm;
    const float *cosines, *sines; /* (tokens, dim / 2) */
} Turn;

/* The new tokens of one sequence, and one head that has keys and values. */
typedef struct {
    void *keys, *values; /* of this head in block 0 */
    int64_t block;       /* cells from block to block */
    const int32_t *blocks;
    int64_t start, length; /* tokens in the cache, and new ones */
    int64_t dim, group;
    float *q, *k, *v; /* of the first new token; the queries of the group stand side by side */
    int64_t stride;   /* floats from token to token */
    Turn turn;        /* from the first new token on */
    float *out;       /* of the first new token and the first query */
    int64_t out_stride;
} Head;

typedef struct {
    int64_t most, tall; /* rows that are multiplied together: of a plain layer, and of the others */
    /* `rows` (up to `most`) rows of x, `stride` bytes apart, times one block of weights, into sums
       (rows, CHANNELS). Meanwhile it may fetch `ahead` from memory, `step` bytes for each four. */
    void (*dot)(const uint8_t *x, int64_t stride, const int8_t *w, int64_t fours, int rows,
                int32_t *sums, const int8_t *ahead, int64_t step);
    /* The same for up to `tall` rows and a grouped layer, into sums in floating point: of each group the
       sum of bytes times the row's step, and that times the weights' scale, fused with the sum of the
       groups before. x is (tiles of TALL rows,
       groups, TALL, GROUP); `steps` and `offsets` are the same without the last. `fp16`: of halves. */
    void (*dot_groups)(const int8_t *x, const uint8_t *w, int64_t groups, int rows,
                       const float *steps, const int32_t *offsets, int fp16, float *sums,
                       const int8_t *ahead, int64_t step);
    /* The same for a layer of nibbles. A group's sum of the row times the minimum, fused, is added:
       `row_sums` has these in place of offsets; see `row_sum_at`. `nested`: of a nested one. */
    void (*dot_nibbles)(const int8_t *x, const uint8_t *w, int64_t groups, int rows,
                        const float *steps, const int32_t *row_sums, int nested, float *sums,
                        const int8_t *ahead, int64_t step);
    /* A norm of one row; n is a multiple of 16. y may be x. */
    void (*norm)(const Norm *norm, const float *x, int64_t n, float *y);
    /* Bytes u and (step, zero) with x ~ step * (u - zero); 0 is kept exactly. A row with an infinity
       or a NaN gets the step NaN, which makes every output of it NaN, as in floating point. */
    void (*quantize)(const float *x, int64_t n, uint8_t *u, float *step, int32_t *zero);
    /* The same of each group: x ~ step * s, s from -127 to 127, padded with zeros to whole groups;
       and `offset`, -128 times the sum of the group's s. Each group stands TALL groups behind the one
       before, as do steps and offsets. */
    void (*quantize_groups)(const float *x, int64_t n, int8_t *s, float *steps, int32_t *offsets);
    /* CHANNELS outputs of a row, from channel `first` on. */
    void (*finish)(const Weights *w, int64_t first, const int32_t *sums, float step, int32_t zero,
                   float *y);
    void (*gelu)(float *x, int64_t n);
    /* y[i] = silu(gate[i]) * up[i] for half a block; y may be gate. */
    void (*swiglu)(const float *gate, const float *up, float *y);
    /* low (rows, `rank`) = x A^T for rows of n inputs; n is a multiple of 4. */
    void (*down)(const Pair *pair, const float *x, int64_t n, int rows, float *low, int64_t rank);
    /* y (rows, CHANNELS) += low B^T, then with the gain, for block number `block`. */
    void (*up)(const Pair *pair, int64_t block, const float *low, int64_t rank, int rows, float *y);
    /* Stores the keys and values of the new tokens, and attends: each token sees those before it
       and itself. q and k are changed in place. */
    void (*head)(const Head *h, int bf16, float *scores);
    /* For training; see gradients.h. */
    void (*widen)(const uint16_t *x, int64_t n, float *y);
    void (*narrow)(const float *x, int64_t n, uint16_t *y);
    float (*rms_norm)(const float *x, const float *weight, float eps, int64_t n, float *y);
    void (*rms_norm_gradient)(const float *grad, const float *x, const float *weight, float inverse,
                              int64_t n, float *of_x);
    void (*gated)(const float *gate, const float *up, int64_t n, float *y);
    void (*gated_gradient)(const float *grad, const float *gate, const float *up, int64_t n,
                           float *of_gate, float *of_up);
    void (*rotate)(const float *x, const float *cosines, const float *sines, float sign,
                   int64_t half, float *y);
    float (*cross_entropy)(float *x, int64_t n, int64_t target);
} Path;

extern const Path *const kernel_paths[]; /* portable, AVX2, AVX-VNNI, AVX-512 with VNNI; or NULL */
