/* DCT of one chunk and its inverse.
 *
 * 64 x 64 chunks use three even/odd splits; all others plain products. The inverse has integer operands, at most 1023,
 * and an integer basis, at most 256: every partial sum of either method is an integer below 2^24, so fp32 rounds none
 * and the order of summation does not matter.
 */
#ifndef TEMPLAR_TRANSFORM_H
#define TEMPLAR_TRANSFORM_H

#include "native.h"
#include "vectors.h"

#define PAIR 2 /* vectors of columns that are transformed together: eight sums hide the latency of the adder */

/* A tile that will be read next: 64 rows of 256 bytes, `stride` floats apart. Its lines are asked for little by little
 * while another one is transformed, so that reading and computing overlap; all at once they would stall. */
typedef struct {
    const float *row;
    long stride;
} ahead_t;

/* Return the tile to the right, which most likely comes next; asking for memory that is not there does no harm. */
INLINE ahead_t next_tile(const parameter_t *p, const float *matrix, int64_t chunk) {
    const long next = chunk + 1, row = next / p->chunk_columns * EDGE, column = next % p->chunk_columns * EDGE;
    return (ahead_t){matrix + row * p->columns + column, p->columns};
}

INLINE void ask_ahead(ahead_t *next) {
    for (int r = 0; r < PAIR * LANES / 16; r++, next->row += next->stride) /* 64 rows in as many calls as a transform makes */
        for (int c = 0; c < EDGE; c += 16) __builtin_prefetch(next->row + c);
}

/* y[k] = sum over n of matrix[k][n] * x[n] for PAIR vectors of columns; y[k] is at y + k * step. */
INLINE void product(const float *matrix, int size, const vec (*x)[PAIR], float *y, long step, ahead_t *next) {
    for (int k = 0; k < size; k += 4, matrix += 4 * size) {
        vec sums[4][PAIR] = {0};
#pragma GCC unroll 8
        for (int n = 0; n < size; n++)
            for (int j = 0; j < 4; j++)
                for (int p = 0; p < PAIR; p++) sums[j][p] += matrix[4 * n + j] * x[n][p];
        for (int j = 0; j < 4; j++)
            for (int p = 0; p < PAIR; p++) store(y + (k + j) * step + p * LANES, sums[j][p]);
        ask_ahead(next);
    }
}

INLINE void fold(vec (*sums)[PAIR], vec (*differences)[PAIR], int half) {
    for (int n = 0; n < half; n++)
        for (int p = 0; p < PAIR; p++) {
            const vec near = sums[n][p], far = sums[2 * half - 1 - n][p];
            differences[n][p] = near - far;
            sums[n][p] = near + far;
        }
}

INLINE void unfold(vec (*sums)[PAIR], const vec (*differences)[PAIR], int half) {
    for (int n = 0; n < half; n++)
        for (int p = 0; p < PAIR; p++) {
            const vec even = sums[n][p], odd = differences[n][p];
            sums[n][p] = even + odd;
            sums[2 * half - 1 - n][p] = even - odd;
        }
}

/* Transform the 64 rows of `in` into 64 frequencies, column by column; rows of `out` are EDGE apart. */
static void forward64(const splits_t *m, const float *in, long stride, float *out, ahead_t next) {
    for (int c = 0; c < EDGE; c += PAIR * LANES) {
        vec s[64][PAIR], d[32][PAIR];
        for (int n = 0; n < 64; n++)
            for (int p = 0; p < PAIR; p++) s[n][p] = load(in + n * stride + c + p * LANES);
        fold(s, d, 32);
        product(m->odd32, 32, d, out + 1 * EDGE + c, 2 * EDGE, &next);
        fold(s, d, 16);
        product(m->odd16, 16, d, out + 2 * EDGE + c, 4 * EDGE, &next);
        fold(s, d, 8);
        product(m->odd8, 8, d, out + 4 * EDGE + c, 8 * EDGE, &next);
        product(m->even8, 8, s, out + c, 8 * EDGE, &next);
    }
}

INLINE void gather_rows(vec (*x)[PAIR], const float *in, int count, int step) {
    for (int k = 0; k < count; k++)
        for (int p = 0; p < PAIR; p++) x[k][p] = load(in + k * step * EDGE + p * LANES);
}

/* Transform 64 frequencies, rows of `in`, back, and write the signs of the 64 rows, `stride` apart. */
static void inverse64_signs(const splits_t *m, const float *in, float *out, long stride, ahead_t next) {
    for (int c = 0; c < EDGE; c += PAIR * LANES) {
        vec x[32][PAIR], s[64][PAIR], d[32][PAIR];
        gather_rows(x, in + c, 8, 8);
        product(m->even8, 8, x, (float *)s, PAIR * LANES, &next);
        gather_rows(x, in + 4 * EDGE + c, 8, 8);
        product(m->odd8, 8, x, (float *)d, PAIR * LANES, &next);
        unfold(s, d, 8);
        gather_rows(x, in + 2 * EDGE + c, 16, 4);
        product(m->odd16, 16, x, (float *)d, PAIR * LANES, &next);
        unfold(s, d, 16);
        gather_rows(x, in + EDGE + c, 32, 2);
        product(m->odd32, 32, x, (float *)d, PAIR * LANES, &next);
        for (int n = 0; n < 32; n++)
            for (int p = 0; p < PAIR; p++) {
                store(out + n * stride + c + p * LANES, sign_of(s[n][p] + d[n][p]));
                store(out + (63 - n) * stride + c + p * LANES, sign_of(s[n][p] - d[n][p]));
            }
    }
}

static void transpose64(const float *in, float *out) {
    for (int i = 0; i < EDGE; i += 8)
        for (int j = 0; j < EDGE; j += 8) {
            eight r[8];
            for (int k = 0; k < 8; k++) r[k] = *(const eight *)(in + (i + k) * EDGE + j);
            transpose8(r);
            for (int k = 0; k < 8; k++) *(eight *)(out + (j + k) * EDGE + i) = r[k];
        }
}

/* momentum = decay * momentum + weight * transpose(in), both 64 x 64. */
static void fold_transposed64(float *momentum, const float *in, float decay, float weight) {
    for (int i = 0; i < EDGE; i += 8)
        for (int j = 0; j < EDGE; j += 8) {
            eight r[8];
            for (int k = 0; k < 8; k++) r[k] = *(const eight *)(in + (i + k) * EDGE + j);
            transpose8(r);
            for (int k = 0; k < 8; k++) {
                eight *m = (eight *)(momentum + (j + k) * EDGE + i);
                *m = decay * *m + weight * r[k];
            }
        }
}

/* DCT of a height x width tile of any size, both at most 64; basis row = place, column = frequency. */
static void forward_any(const tables_t *t, const parameter_t *p, const float *tile, float *out) {
    float rows[NUMEL];
    const float *across = t->forward[p->width], *down = t->forward[p->height];
    const int height = p->height, width = p->width;
    for (int r = 0; r < height; r++) {
        float *row = (p->is_vector ? out : rows) + r * width;
        for (int k = 0; k < width; k++) row[k] = 0;
        for (int c = 0; c < width; c++)
            for (int k = 0; k < width; k++) row[k] += tile[r * width + c] * across[c * width + k];
    }
    if (p->is_vector) return;
    for (int i = 0; i < height * width; i++) out[i] = 0;
    for (int r = 0; r < height; r++)
        for (int k = 0; k < height; k++)
            for (int c = 0; c < width; c++) out[k * width + c] += down[r * height + k] * rows[r * width + c];
}

/* Signs of the inverse along the columns, height x width. */
static void inverse_any_signs(const tables_t *t, const parameter_t *p, const float *in, float *out) {
    const float *basis = t->inverse[p->height];
    const int height = p->height, width = p->width;
    for (int x = 0; x < height; x++) {
        float row[EDGE] = {0};
        for (int k = 0; k < height; k++)
            for (int c = 0; c < width; c++) row[c] += basis[k * height + x] * in[k * width + c];
        for (int c = 0; c < width; c++) out[x * width + c] = (float)((row[c] > 0) - (row[c] < 0));
    }
}

#endif
