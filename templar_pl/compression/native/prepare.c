/* Tables that follow from others, and what Python must agree on. */
#include "native.h"

/* Store what the frequencies `first` + n `step` of the integer basis, row = frequency, are at the places 0..size - 1. */
static void pack(int32_t *to, const float *basis, int size, int first, int step) {
    for (int k = 0; k < size; k += 4)
        for (int n = 0; n < size; n += 2)
            for (int j = 0; j < 4; j++) {
                const float *low = basis + (first + n * step) * EDGE + k + j, *high = low + step * EDGE;
                *to++ = (int32_t)((uint32_t)(uint16_t)(int16_t)*low | (uint32_t)(int32_t)*high << 16);
            }
}

/* Fill `inverse64` from the integer basis of size 64. */
void native_prepare(tables_t *t) {
    const float *basis = t->inverse[EDGE];
    pack(t->inverse64.odd32, basis, 32, 1, 2);
    pack(t->inverse64.odd16, basis, 16, 2, 4);
    pack(t->inverse64.odd8, basis, 8, 4, 8);
    pack(t->inverse64.even8, basis, 8, 0, 8);
}

/* Write the sizes of the structures. */
void native_abi(int64_t sizes[3]) {
    sizes[0] = sizeof(tables_t), sizes[1] = sizeof(parameter_t), sizes[2] = sizeof(job_t);
}
