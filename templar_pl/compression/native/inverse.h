/* Exact inverse DCT of 64 x 64 chunks: along the columns, by three even/odd splits, with 704 products of pairs instead
 * of 4096.
 *
 * The operands are integers of at most 1023 and those of the basis of at most 256, so two products fit in an int32, and
 * so does every sum: no arithmetic rounds, and the order of summation does not matter.
 */
#ifndef TEMPLAR_INVERSE_H
#define TEMPLAR_INVERSE_H

#include "cosine.h"
#include "native.h"
#include "vectors.h"

#define PAIR 2 /* vectors of columns that are transformed together: eight sums hide the latency of the adder */

/* Pairs of frequencies as two int16 in an int32, those of one matrix after the other: first the odd ones, ... */
enum { ODD32 = 0, ODD16 = 16, ODD8 = 24, EVEN8 = 28 };

/* Rescale 64 rows of integers by a power of two, halves to even, and pair them: row `first` + 2 i `step` with the one
 * `step` below it. The results are at most 1023. */
INLINE void pair_rows(const float *rows, float power, int first, int step, int count, int32_t *pairs) {
    for (int i = 0; i < count; i++, pairs += EDGE) {
        const float *low = rows + (first + 2 * i * step) * EDGE, *high = low + step * EDGE;
        for (int c = 0; c < EDGE; c += LANES) {
            const ivec a = __builtin_convertvector(nearest(load(low + c) * power), ivec);
            const ivec b = __builtin_convertvector(nearest(load(high + c) * power), ivec);
            *(ivec *)(pairs + c) = (a & 0xffff) | (b << 16);
        }
    }
}

static void pair_frequencies(const float *rows, float power, int32_t *pairs) {
    pair_rows(rows, power, 1, 2, 16, pairs + ODD32 * EDGE);
    pair_rows(rows, power, 2, 4, 8, pairs + ODD16 * EDGE);
    pair_rows(rows, power, 4, 8, 4, pairs + ODD8 * EDGE);
    pair_rows(rows, power, 0, 8, 4, pairs + EVEN8 * EDGE);
}

/* y[k] = sum over n of matrix[k][n] * x[n] for PAIR vectors of columns; x is in pairs, EDGE apart. */
INLINE void product(const int32_t *matrix, int size, const int32_t *x, ivec (*y)[PAIR], ahead_t *next) {
    for (int k = 0; k < size; k += 4, matrix += 2 * size) {
        ivec sums[4][PAIR] = {0};
#pragma GCC unroll 4
        for (int n = 0; n < size / 2; n++)
            for (int j = 0; j < 4; j++)
                for (int p = 0; p < PAIR; p++)
                    sums[j][p] += products(*(const ivec *)(x + n * EDGE + p * LANES), matrix[4 * n + j]);
        for (int j = 0; j < 4; j++)
            for (int p = 0; p < PAIR; p++) y[k + j][p] = sums[j][p];
        for (int r = 0; r < PAIR * LANES / 16; r++, next->first += next->stride) /* 64 rows in the calls of a transform */
            for (int c = 0; c < EDGE; c += 16) __builtin_prefetch(next->first + c);
    }
}

INLINE void unfold(ivec (*sums)[PAIR], const ivec (*differences)[PAIR], int half) {
    for (int n = 0; n < half; n++)
        for (int p = 0; p < PAIR; p++) {
            const ivec even = sums[n][p], odd = differences[n][p];
            sums[n][p] = even + odd;
            sums[2 * half - 1 - n][p] = even - odd;
        }
}

/* Transform 64 frequencies in pairs back, and write the signs of the 64 rows, `stride` apart. */
static void inverse64_signs(const splits_t *m, const int32_t *pairs, float *out, long stride, ahead_t next) {
    for (int c = 0; c < EDGE; c += PAIR * LANES, out += PAIR * LANES, pairs += PAIR * LANES) {
        ivec s[32][PAIR], d[32][PAIR];
        product(m->even8, 8, pairs + EVEN8 * EDGE, s, &next);
        product(m->odd8, 8, pairs + ODD8 * EDGE, d, &next);
        unfold(s, d, 8);
        product(m->odd16, 16, pairs + ODD16 * EDGE, d, &next);
        unfold(s, d, 16);
        product(m->odd32, 32, pairs + ODD32 * EDGE, d, &next);
        for (int n = 0; n < 32; n++)
            for (int p = 0; p < PAIR; p++) {
                store(out + n * stride + p * LANES, sign_of(s[n][p] + d[n][p]));
                store(out + (63 - n) * stride + p * LANES, sign_of(s[n][p] - d[n][p]));
            }
    }
}

#endif
