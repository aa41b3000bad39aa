/* The functions of `Path` for each instruction set: the same C with vectors of another length, and
   a product of bytes written for each. */

#include "kernels.h"
#include "exp2.h"

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX_VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,amx-tile,amx-int8")))
/* Whether the compiler knows AVX-VNNI and AMX. */
#define KNOWS_ALL (__GNUC__ >= 11 || (defined(__clang__) && __clang_major__ >= 12))

#include "dot.h"
#include "nibbles.h"

/* To the nearest, ties to even. */
static inline __attribute__((always_inline)) uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (uint16_t)(x == x ? rounded : 0x7FC0);
}

/* Vectors are LANES floats, and registers hold the sums of ROWS rows x 16 TILE numbers. */
#define LANES 4
#define TILE 1
#define PATH portable
#define ATTRIBUTES
#include "path.h"

#ifdef __x86_64__
#define LANES 8
#define TILE 1
#define PATH avx2
#define ATTRIBUTES AVX2
#define WORDS(from) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from)))
#define FUSED(a, b, c) (vec) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#include "path.h"

#if KNOWS_ALL
#define LANES 8
#define TILE 1
#define PATH avx_vnni
#define ATTRIBUTES AVX_VNNI
#define WORDS(from) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from)))
#define FUSED(a, b, c) (vec) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define DPBUSD(sum, without, with_sign)                                                            \
    (ints) _mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(without), (__m256i)(with_sign))
#define FP16(from) (vec) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from)))
#define BYTES(from) (ints) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(from)))
#include "path.h"
#endif

#define LANES 16
#define TILE 4
#define PATH vnni
#define ATTRIBUTES VNNI
#define WORDS(from) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from)))
#define FUSED(a, b, c) (vec) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define DPBUSD(sum, without, with_sign)                                                            \
    (ints) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(without), (__m512i)(with_sign))
#define FP16(from) (vec) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from)))
#define BYTES(from) (ints) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(from)))
#if KNOWS_ALL
#define TILES_TOO
#endif
#include "path.h"
#endif

const Path *const kernel_paths[] = {
    &path_portable,
#ifdef __x86_64__
    &path_avx2,
#if KNOWS_ALL
    &path_avx_vnni,
#else
    NULL,
#endif
    &path_vnni,
#if KNOWS_ALL
    &path_amx,
#else
    NULL,
#endif
#endif
};
