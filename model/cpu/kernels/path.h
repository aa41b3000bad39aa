/* All functions of one instruction set; see paths.c, which includes this once for each. */

#define JOIN(a, b) a##_##b
#define JOINED(a, b) JOIN(a, b)
#define NAMED(a) JOINED(a, PATH)
#define vec NAMED(vec)
#define whole NAMED(whole)
#define shorts NAMED(shorts)
#define total NAMED(total)
#define norm NAMED(norm)
#define quantize NAMED(quantize)
#define finish NAMED(finish)
#define gelu NAMED(gelu)
#define down NAMED(down)
#define down_rows NAMED(down_rows)
#define up NAMED(up)
#define up_rows NAMED(up_rows)
#define load NAMED(load)
#define fetch NAMED(fetch)
#define dots NAMED(dots)
#define softmax NAMED(softmax)
#define mix NAMED(mix)
#define queries NAMED(queries)
#define head NAMED(head)
#define head_of NAMED(head_of)
#define INLINE ATTRIBUTES static inline __attribute__((always_inline))
#define EACH (16 / LANES) /* vectors for 16 floats */

#include "loops.h"
#include "attention.h"

static const Path NAMED(path) = {norm, quantize, NAMED(dot), finish, gelu, down, up, head};

#undef JOIN
#undef JOINED
#undef NAMED
#undef vec
#undef whole
#undef shorts
#undef total
#undef norm
#undef quantize
#undef finish
#undef gelu
#undef down
#undef down_rows
#undef up
#undef up_rows
#undef load
#undef fetch
#undef dots
#undef softmax
#undef mix
#undef queries
#undef head
#undef head_of
#undef INLINE
#undef EACH
#undef LANES
#undef PARTS
#undef PATH
#undef ATTRIBUTES
