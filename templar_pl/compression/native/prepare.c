/* Tables that follow from others, and what Python must agree on. */
#include "native.h"

/* Store a matrix in groups of four outputs. Element (k, n) of `basis` is at first + k * row + n * column. */
static void pack(float *to, const float *first, int size, long row, long column) {
    for (int k = 0; k < size; k += 4)
        for (int n = 0; n < size; n++)
            for (int j = 0; j < 4; j++) *to++ = first[(k + j) * row + n * column];
}

/* Fill `forward64` and `inverse64` from the bases of size 64. */
void native_prepare(tables_t *t) {
    const float *f = t->forward[EDGE], *i = t->inverse[EDGE]; /* f: place x frequency; i: frequency x place */
    pack(t->forward64.odd32, f + 1, 32, 2, EDGE);
    pack(t->forward64.odd16, f + 2, 16, 4, EDGE);
    pack(t->forward64.odd8, f + 4, 8, 8, EDGE);
    pack(t->forward64.even8, f, 8, 8, EDGE);
    pack(t->inverse64.odd32, i + 1 * EDGE, 32, 1, 2 * EDGE);
    pack(t->inverse64.odd16, i + 2 * EDGE, 16, 1, 4 * EDGE);
    pack(t->inverse64.odd8, i + 4 * EDGE, 8, 1, 8 * EDGE);
    pack(t->inverse64.even8, i, 8, 1, 8 * EDGE);
}

/* Write the sizes of the structures. */
void native_abi(int64_t sizes[3]) {
    sizes[0] = sizeof(tables_t), sizes[1] = sizeof(parameter_t), sizes[2] = sizeof(job_t);
}
