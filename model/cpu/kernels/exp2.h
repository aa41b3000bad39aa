/* 2^z in plain arithmetic, for -126 <= z <= 126: a compiler vectorizes it, it gives the same bits
   everywhere, and it is within 1e-6 of the exact value. NaN stays NaN. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline __attribute__((always_inline)) float exp2_within(float z)
{
    const float whole = rintf(z), part = z - whole; /* |part| <= 1/2 */
    float power = 1.5352e-4f;
    power = power * part + 1.3398874e-3f;
    power = power * part + 9.618437e-3f;
    power = power * part + 5.550332e-2f;
    power = power * part + 0.2402264791f;
    power = power * part + 0.6931472f;
    power = power * part + 1;
    const int32_t bits = (int32_t)((uint32_t)((int32_t)whole + 127) << 23);
    float two_to_whole;
    memcpy(&two_to_whole, &bits, 4);
    return power * two_to_whole;
}
