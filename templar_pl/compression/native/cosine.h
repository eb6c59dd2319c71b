/* Fast DCT of one column after the other, as many at once as a vector has lanes.
 *
 * A DCT-II falls apart into a DCT-II and a DCT-IV of half the size, and a DCT-IV, after one rotation of each pair of
 * values, into two DCT-II of half the size: G. Plonka, M. Tasche, Fast and numerically stable algorithms for discrete
 * cosine transforms, Linear Algebra Appl. 394 (2005), section 2. All are without scale factors:
 * y[k] = sum over n of x[n] cos(pi (2n + 1) k / 2N), and with (2k + 1) / 2 for k in a DCT-IV.
 *
 * `c` are the cosines of pi i / 128, i = 0..64: those of all rotations, and their sines from the end.
 */
#ifndef TEMPLAR_COSINE_H
#define TEMPLAR_COSINE_H

#include "native.h"
#include "vectors.h"

#define UNROLL _Pragma("GCC unroll 16")

/* Angle n of the rotations in a DCT-IV of a size: pi (2n + 1) / 4 size. */
#define COSINE(size, n) c[(2 * (n) + 1) * (32 / (size))]
#define SINE(size, n) c[64 - (2 * (n) + 1) * (32 / (size))]

INLINE void dct2_2(const float *c, vec *x) {
    const vec sum = x[0] + x[1], difference = x[0] - x[1];
    x[0] = sum, x[1] = difference * c[32];
}

INLINE void dct4_2(const float *c, vec *x) {
    const vec even = x[0] * COSINE(2, 0) + x[1] * SINE(2, 0), odd = x[0] * SINE(2, 0) - x[1] * COSINE(2, 0);
    x[0] = even, x[1] = odd;
}

/* Rotate a pair of a DCT-IV. The second of every other pair changes its sign, which makes a DCT-II of a DST-II. */
#define ROTATE(size, n, near, far, a, b)                                                                               \
    do {                                                                                                               \
        (a) = (near) * COSINE(size, n) + (far) * SINE(size, n);                                                        \
        (b) = (n) % 2 ? (near) * SINE(size, n) - (far) * COSINE(size, n) : (far) * COSINE(size, n) - (near) * SINE(size, n); \
    } while (0)

#define DEFINE_DCT2(SIZE, HALF)                                                                                        \
    INLINE void dct2_##SIZE(const float *c, vec *x) {                                                                  \
        vec sums[HALF], differences[HALF];                                                                             \
        UNROLL for (int n = 0; n < HALF; n++)                                                                          \
            sums[n] = x[n] + x[SIZE - 1 - n], differences[n] = x[n] - x[SIZE - 1 - n];                                 \
        dct2_##HALF(c, sums);                                                                                          \
        dct4_##HALF(c, differences);                                                                                   \
        UNROLL for (int k = 0; k < HALF; k++) x[2 * k] = sums[k], x[2 * k + 1] = differences[k];                       \
    }

#define DEFINE_DCT4(SIZE, HALF)                                                                                        \
    INLINE void dct4_##SIZE(const float *c, vec *x) {                                                                  \
        vec a[HALF], b[HALF];                                                                                          \
        UNROLL for (int n = 0; n < HALF; n++) ROTATE(SIZE, n, x[n], x[SIZE - 1 - n], a[n], b[n]);                      \
        dct2_##HALF(c, a);                                                                                             \
        dct2_##HALF(c, b);                                                                                             \
        x[0] = a[0], x[SIZE - 1] = -b[0];                                                                              \
        UNROLL for (int k = 1; k < HALF; k++) x[2 * k] = a[k] + b[HALF - k], x[2 * k - 1] = a[k] - b[HALF - k];        \
    }

DEFINE_DCT2(4, 2)
DEFINE_DCT4(4, 2)
DEFINE_DCT2(8, 4)
DEFINE_DCT4(8, 4)
DEFINE_DCT2(16, 8)
DEFINE_DCT4(16, 8)

/* A part of what is read next; its lines are asked for little by little while other values are transformed, so that
 * reading and computing overlap; all at once they would stall. 64 rows, `stride` floats apart. */
typedef struct {
    const float *first;
    long stride;
} ahead_t;

/* Return the tile to the right, which most likely comes next; asking for memory that is not there does no harm. */
INLINE ahead_t next_tile(const parameter_t *p, const float *matrix, int64_t chunk) {
    const long next = chunk + 1, row = next / p->chunk_columns * EDGE, column = next % p->chunk_columns * EDGE;
    return (ahead_t){matrix + row * p->columns + column, p->columns};
}

INLINE void ask_for(ahead_t next, int row, int column) {
    if (column % 16 == 0) __builtin_prefetch(next.first + row * next.stride + column);
}

/* Transform the 64 rows of `in`, `stride` apart, into 64 frequencies, column by column; rows of `out` are EDGE apart.
 * The first one is scaled by sqrt(1/2), so 1/32 of the result of two dimensions is orthonormal.
 *
 * The first two steps are taken at once, and parts of 16 rows are finished one after the other, so that most of what
 * lies between stays in registers. */
static void forward64(const float *c, const float *in, long stride, float *out, ahead_t next) {
    for (int column = 0; column < EDGE; column += LANES) {
        vec a[16], b[16], even[16], odd[16];
        const float *from = in + column;
        float *to = out + column;
        for (int n = 0; n < 16; n++) {
            const vec first = load(from + n * stride), last = load(from + (63 - n) * stride);
            const vec second = load(from + (31 - n) * stride), third = load(from + (32 + n) * stride);
            const vec near = first + last, far = second + third;
            ROTATE(32, n, first - last, second - third, a[n], b[n]);
            even[n] = near + far, odd[n] = near - far;
            ask_for(next, n, column);
        }
        dct2_16(c, b);
        dct2_16(c, a);
        store(to + EDGE, a[0]), store(to + 63 * EDGE, -b[0]);
        UNROLL for (int k = 1; k < 16; k++) {
            store(to + (4 * k + 1) * EDGE, a[k] + b[16 - k]), store(to + (4 * k - 1) * EDGE, a[k] - b[16 - k]);
            ask_for(next, 15 + k, column);
        }
        dct2_16(c, even);
        even[0] *= c[32];
        UNROLL for (int k = 0; k < 16; k++) store(to + 4 * k * EDGE, even[k]), ask_for(next, 31 + k, column);
        dct4_16(c, odd);
        UNROLL for (int k = 0; k < 16; k++) store(to + (4 * k + 2) * EDGE, odd[k]), ask_for(next, 47 + k, column);
        ask_for(next, 63, column);
    }
}

#endif
