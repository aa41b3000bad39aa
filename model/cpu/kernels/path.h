/* All functions of one instruction set; see paths.c, which includes this once for each. */

#define JOIN(a, b) a##_##b
#define JOINED(a, b) JOIN(a, b)
#define NAMED(a) JOINED(a, PATH)
#define vec NAMED(vec)
#define words NAMED(words)
#define bf16_numbers NAMED(bf16_numbers)
#define ints NAMED(ints)
#define repeated NAMED(repeated)
#define tile NAMED(tile)
#define tiles NAMED(tiles)
#define Channels NAMED(Channels)
#define scales_at NAMED(scales_at)
#define channels_at NAMED(channels_at)
#define add_group NAMED(add_group)
#define add_rows NAMED(add_rows)
#define tiles_groups NAMED(tiles_groups)
#define any_rows NAMED(any_rows)
#define Rows NAMED(Rows)
#define total NAMED(total)
#define fused NAMED(fused)
#define lanes NAMED(lanes)
#define norm NAMED(norm)
#define norm_row NAMED(norm_row)
#define quantize NAMED(quantize)
#define quantize_groups NAMED(quantize_groups)
#define finish NAMED(finish)
#define gelu NAMED(gelu)
#define swiglu NAMED(swiglu)
#define down NAMED(down)
#define down_rows NAMED(down_rows)
#define up NAMED(up)
#define up_rows NAMED(up_rows)
#define load NAMED(load)
#define fetch NAMED(fetch)
#define dots NAMED(dots)
#define softmax NAMED(softmax)
#define mix NAMED(mix)
#define attend_rows NAMED(attend_rows)
#define turn_head NAMED(turn_head)
#define store NAMED(store)
#define head NAMED(head)
#define head_of NAMED(head_of)
#define widen NAMED(widen)
#define narrow NAMED(narrow)
#define rms_norm NAMED(rms_norm)
#define rms_norm_gradient NAMED(rms_norm_gradient)
#define sigmoid NAMED(sigmoid)
#define gated NAMED(gated)
#define gated_gradient NAMED(gated_gradient)
#define rotate NAMED(rotate)
#define cross_entropy NAMED(cross_entropy)
#define INLINE ATTRIBUTES static inline __attribute__((always_inline))
#define EACH (16 / LANES) /* vectors for 16 floats */

#include "loops.h"
#include "attention.h"
#include "gradients.h"
#ifdef DPBUSD
#include "vnni.h"
#endif

#define WITH(rows, tall, dot, dot_groups, dot_nibbles)                                             \
    {                                                                                              \
        rows, tall, dot, dot_groups, dot_nibbles, norm_row, quantize, quantize_groups, finish,      \
            gelu, swiglu, down, up, head, widen, narrow, rms_norm, rms_norm_gradient, gated,       \
            gated_gradient, rotate, cross_entropy,                                                 \
    }
static const Path NAMED(path) =
    WITH(ROWS, TALL, NAMED(dot), NAMED(dot_groups), NAMED(dot_nibbles));
#ifdef TILES_TOO
#include "amx.h"
static const Path path_amx = WITH(16, TALLEST, dot_amx, dot_groups_amx, dot_nibbles_amx);
#endif
#undef WITH
#undef TILES_TOO

#undef JOIN
#undef JOINED
#undef NAMED
#undef vec
#undef words
#undef bf16_numbers
#undef ints
#undef repeated
#undef tile
#undef tiles
#undef Channels
#undef scales_at
#undef channels_at
#undef add_group
#undef add_rows
#undef tiles_groups
#undef any_rows
#undef Rows
#undef total
#undef fused
#undef lanes
#undef norm
#undef norm_row
#undef quantize
#undef quantize_groups
#undef finish
#undef gelu
#undef swiglu
#undef down
#undef down_rows
#undef up
#undef up_rows
#undef load
#undef fetch
#undef dots
#undef softmax
#undef mix
#undef attend_rows
#undef turn_head
#undef store
#undef head
#undef head_of
#undef widen
#undef narrow
#undef rms_norm
#undef rms_norm_gradient
#undef sigmoid
#undef gated
#undef gated_gradient
#undef rotate
#undef cross_entropy
#undef INLINE
#undef EACH
#undef LANES
#undef TILE
#undef PATH
#undef ATTRIBUTES
#undef DPBUSD
#undef FP16
#undef FUSED
#undef WORDS
#undef BYTES
#undef WIDE
#undef NEAR
