/* Transposes of 64 x 64 chunks, and transforms of all others by plain products.
 *
 * The inverse has integer operands, at most 1023, and an integer basis, at most 256: every partial sum is an integer
 * below 2^24, so fp32 rounds none and the order of summation does not matter.
 */
#ifndef TEMPLAR_TRANSFORM_H
#define TEMPLAR_TRANSFORM_H

#include "native.h"
#include "select.h"
#include "vectors.h"

static void transpose64(const float *in, float *out) {
    for (int i = 0; i < EDGE; i += 8)
        for (int j = 0; j < EDGE; j += 8) {
            eight r[8];
            for (int k = 0; k < 8; k++) r[k] = *(const eight *)(in + (i + k) * EDGE + j);
            transpose8(r);
            for (int k = 0; k < 8; k++) *(eight *)(out + (j + k) * EDGE + i) = r[k];
        }
}

/* momentum = decay * momentum + weight * transpose(in), both 64 x 64; find the largest magnitude of every GROUP. */
static void fold_transposed64(float *momentum, const float *in, float decay, float weight, int32_t maxima[GROUPS]) {
    for (int j = 0; j < EDGE; j += 8)
        for (int i = 0; i < EDGE; i += 8) {
            eight r[8];
            eight_bits most = {0};
            for (int k = 0; k < 8; k++) r[k] = *(const eight *)(in + (i + k) * EDGE + j);
            transpose8(r);
            for (int k = 0; k < 8; k++) {
                eight *m = (eight *)(momentum + (j + k) * EDGE + i);
                *m = decay * *m + weight * r[k];
                most = larger_eight(most, (eight_bits)*m & 0x7fffffff);
            }
            eight_bits *const kept = (eight_bits *)(maxima + j * 4 + i / 16 * 8); /* of this block and its neighbour */
            *kept = i % 16 ? larger_eight(*kept, most) : most;
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
