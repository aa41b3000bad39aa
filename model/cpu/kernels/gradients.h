/* Loops of training over one row in fp32, for the instruction set that paths.c describes; it
   includes this once for each. A sum takes its terms in the order that the compiler likes best:
   training gives the same bits on the same processor, and serving uses none of this. */

ATTRIBUTES static void widen(const uint16_t *restrict x, int64_t n, float *restrict y)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(y + i, &bits, 4);
    }
}

ATTRIBUTES static void narrow(const float *restrict x, int64_t n, uint16_t *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = to_bf16(x[i]);
}

/* y = x / sqrt(mean(x^2) + eps) * weight; returns what x is multiplied by. */
ATTRIBUTES static float rms_norm(const float *restrict x, const float *restrict weight, float eps,
                                 int64_t n, float *restrict y)
{
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    const float inverse = 1 / sqrtf(squares / n + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * inverse * weight[i];
    return inverse;
}

/* The gradient of x, of a norm that multiplied it by `inverse`. */
ATTRIBUTES static void rms_norm_gradient(const float *restrict grad, const float *restrict x,
                                         const float *restrict weight, float inverse, int64_t n,
                                         float *restrict of_x)
{
    float along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < n; i++)
        along += grad[i] * weight[i] * x[i];
    along *= inverse * inverse * inverse / n;
    for (int64_t i = 0; i < n; i++)
        of_x[i] = grad[i] * weight[i] * inverse - x[i] * along;
}

/* 1 / (1 + exp(-x)), within 1e-6. */
INLINE float sigmoid(float x)
{
    float z = x * -1.44269504f; /* exp(-x) is 2^z */
    z = z < -126 ? -126 : z;
    z = z > 126 ? 126 : z;
    return 1 / (1 + exp2_within(z));
}

/* y = silu(gate) up */
ATTRIBUTES static void gated(const float *restrict gate, const float *restrict up, int64_t n,
                             float *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

ATTRIBUTES static void gated_gradient(const float *restrict grad, const float *restrict gate,
                                      const float *restrict up, int64_t n,
                                      float *restrict of_gate, float *restrict of_up)
{
    for (int64_t i = 0; i < n; i++) {
        const float share = sigmoid(gate[i]), activated = gate[i] * share;
        of_up[i] = grad[i] * activated;
        of_gate[i] = grad[i] * up[i] * (share + activated * (1 - share));
    }
}

/* The pairs (x[i], x[i + half]) turned by their angles, or back by them if `sign` is -1. */
ATTRIBUTES static void rotate(const float *restrict x, const float *restrict cosines,
                              const float *restrict sines, float sign, int64_t half,
                              float *restrict y)
{
    for (int64_t i = 0; i < half; i++) {
        const float sine = sign * sines[i];
        y[i] = x[i] * cosines[i] - x[half + i] * sine;
        y[half + i] = x[half + i] * cosines[i] + x[i] * sine;
    }
}

/* Turns logits into the gradient of their cross-entropy, the probabilities less one at the target;
   returns the cross-entropy. */
ATTRIBUTES static float cross_entropy(float *restrict x, int64_t n, int64_t target)
{
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    const float at_target = x[target];
    for (int64_t first = 0; first < n; first += 1024) { /* a long sum would lose its last digits */
        const int64_t end = first + 1024 < n ? first + 1024 : n;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = first; i < end; i++) {
            float z = (x[i] - most) * 1.44269504f;
            z = z < -126 ? -126 : z;
            x[i] = exp2_within(z);
            part += x[i];
        }
        sum += part;
    }
    const float share = 1 / sum;
    for (int64_t i = 0; i < n; i++)
        x[i] *= share;
    x[target] -= 1;
    return logf(sum) + most - at_target;
}
