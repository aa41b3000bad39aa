/* What Python calls in training: parts of a block that are no product with a weight, forward and
   backward. They are bound by memory, so each reads and writes its numbers once. Numbers are fp32 or
   bf16 in memory; arithmetic is in fp32. All functions return 0, or -1 without memory. */

#define _GNU_SOURCE
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

#include "kernels.h"

#define FEW 65536 /* numbers that one thread has done before others have begun */

/* Rows in memory. */
typedef struct {
    void *data;
    int64_t bf16;
} Numbers;

static void *at(const Numbers *numbers, int64_t place)
{
    return (char *)numbers->data + place * (numbers->bf16 ? 2 : 4);
}

/* n numbers from `place` on, in fp32: where they are, or copied to `own`. */
static const float *in(const Path *path, const Numbers *numbers, int64_t place, int64_t n, float *own)
{
    if (!numbers->bf16)
        return at(numbers, place);
    path->widen(at(numbers, place), n, own);
    return own;
}

/* Where to write them: in place, or at `own`, which `written` then copies. */
static float *out(const Numbers *numbers, int64_t place, float *own)
{
    return numbers->bf16 ? own : at(numbers, place);
}

static void written(const Path *path, const Numbers *numbers, int64_t place, int64_t n,
                    const float *own)
{
    if (numbers->bf16)
        path->narrow(own, n, at(numbers, place));
}

/* Room for so many floats of each thread. */
static float *room(int64_t floats, int threads)
{
    return aligned_alloc(64, (floats * threads * sizeof(float) + 64) / 64 * 64);
}

/* y (rows, n) is the RMS norm of x; `inverse` (rows,) what each row is multiplied by. */
int train_rms_norm(const Numbers *x, const float *weight, float eps, int64_t rows, int64_t n,
                   const Numbers *y, float *inverse, int path_number, int threads)
{
    const Path *path = kernel_paths[path_number];
    float *memory = room(2 * n, threads);
    if (!memory)
        return -1;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * n > FEW)
    for (int64_t r = 0; r < rows; r++) {
        float *own = memory + 2 * n * omp_get_thread_num(), *to = out(y, r * n, own + n);
        inverse[r] = path->rms_norm(in(path, x, r * n, n, own), weight, eps, n, to);
        written(path, y, r * n, n, to);
    }
    free(memory);
    return 0;
}

/* The gradient of x (rows, n), of that of y. */
int train_rms_norm_gradient(const Numbers *grad, const Numbers *x, const float *weight,
                            const float *inverse, int64_t rows, int64_t n, const Numbers *of_x,
                            int path_number, int threads)
{
    const Path *path = kernel_paths[path_number];
    float *memory = room(3 * n, threads);
    if (!memory)
        return -1;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * n > FEW)
    for (int64_t r = 0; r < rows; r++) {
        float *own = memory + 3 * n * omp_get_thread_num(), *to = out(of_x, r * n, own + 2 * n);
        path->rms_norm_gradient(in(path, grad, r * n, n, own), in(path, x, r * n, n, own + n),
                                weight, inverse[r], n, to);
        written(path, of_x, r * n, n, to);
    }
    free(memory);
    return 0;
}

/* y (rows, n) = silu(gate) up, of x (rows, 2 n), where gate stands before up. */
int train_swiglu(const Numbers *x, int64_t rows, int64_t n, const Numbers *y, int path_number,
                 int threads)
{
    const Path *path = kernel_paths[path_number];
    float *memory = room(3 * n, threads);
    if (!memory)
        return -1;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * n > FEW)
    for (int64_t r = 0; r < rows; r++) {
        float *own = memory + 3 * n * omp_get_thread_num(), *to = out(y, r * n, own + 2 * n);
        const float *both = in(path, x, r * 2 * n, 2 * n, own);
        path->gated(both, both + n, n, to);
        written(path, y, r * n, n, to);
    }
    free(memory);
    return 0;
}

/* The gradient of x (rows, 2 n), of that of y (rows, n). */
int train_swiglu_gradient(const Numbers *grad, const Numbers *x, int64_t rows, int64_t n,
                          const Numbers *of_x, int path_number, int threads)
{
    const Path *path = kernel_paths[path_number];
    float *memory = room(5 * n, threads);
    if (!memory)
        return -1;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * n > FEW)
    for (int64_t r = 0; r < rows; r++) {
        float *own = memory + 5 * n * omp_get_thread_num(), *to = out(of_x, r * 2 * n, own + 3 * n);
        const float *both = in(path, x, r * 2 * n, 2 * n, own);
        path->gated_gradient(in(path, grad, r * n, n, own + 2 * n), both, both + n, n, to, to + n);
        written(path, of_x, r * 2 * n, 2 * n, to);
    }
    free(memory);
    return 0;
}

/* Heads (batch, time, heads, dim), and how far their parts stand from each other, in numbers; the
   numbers of a head stand side by side. */
typedef struct {
    int64_t batch, time, heads, dim, of_batch, of_time, of_head;
    int64_t angles_of_batch, angles_of_time;
} Heads;

/* y, in a row, is x turned by the angles of its tokens, or back by them if `sign` is -1. */
int train_turn(const Numbers *x, const Heads *of, const float *cosines, const float *sines,
               float sign, const Numbers *y, int path_number, int threads)
{
    const Path *path = kernel_paths[path_number];
    const int64_t rows = of->batch * of->time, n = of->dim;
    float *memory = room(2 * n, threads);
    if (!memory)
        return -1;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * of->heads * n > FEW)
    for (int64_t r = 0; r < rows; r++) {
        const int64_t b = r / of->time, t = r % of->time;
        const int64_t angles = b * of->angles_of_batch + t * of->angles_of_time;
        float *own = memory + 2 * n * omp_get_thread_num();
        for (int64_t h = 0; h < of->heads; h++) {
            const int64_t from = b * of->of_batch + t * of->of_time + h * of->of_head;
            const int64_t place = (r * of->heads + h) * n;
            float *to = out(y, place, own + n);
            path->rotate(in(path, x, from, n, own), cosines + angles, sines + angles, sign, n / 2,
                         to);
            written(path, y, place, n, to);
        }
    }
    free(memory);
    return 0;
}

/* The cross-entropy of each row of logits (rows, n), which become its gradient. */
int train_cross_entropy(const Numbers *logits, const int64_t *targets, int64_t rows, int64_t n,
                        float *losses, int path_number, int threads)
{
    const Path *path = kernel_paths[path_number];
    float *memory = room(n, threads);
    if (!memory)
        return -1;
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * n > FEW)
    for (int64_t r = 0; r < rows; r++) {
        float *own = logits->bf16 ? memory + n * omp_get_thread_num() : at(logits, r * n);
        in(path, logits, r * n, n, own);
        losses[r] = path->cross_entropy(own, n, targets[r]);
        written(path, logits, r * n, n, own);
    }
    free(memory);
    return 0;
}
