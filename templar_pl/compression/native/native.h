/* What Python hands over. `native_library.py` mirrors these structures field by field; `native_abi` guards their sizes.
 *
 * Nothing here is global: whoever calls owns all memory. Every function may run in several threads at once on one
 * job; they share the work through `next`.
 */
#ifndef TEMPLAR_NATIVE_H
#define TEMPLAR_NATIVE_H

#include <stdint.h>

#define EDGE 64                 /* longest side of a chunk */
#define NUMEL (EDGE * EDGE)     /* most coefficients of a chunk */
#define CHUNKS_AT_ONCE 32       /* what a thread takes from a job at a time */
#define BASE_BYTES 2            /* at the start of a section */

/* The 64-point inverse with three even/odd splits. An element is two int16, of inputs 2 n and 2 n + 1; each matrix is
 * stored in groups of four outputs: [outputs / 4][inputs / 2][4]. */
typedef struct {
    int32_t odd32[32 * 16], odd16[16 * 8], odd8[8 * 4], even8[8 * 4];
} splits_t;

typedef struct {
    const float *forward[EDGE + 1]; /* orthonormal basis of each size, row = place, column = frequency */
    const float *inverse[EDGE + 1]; /* integer basis of each size, row = frequency, column = place */
    const float *magnitudes;        /* fp32 value of each log scale from `lowest` on */
    double borders[8];              /* between the eight scales of an octave that begins at 1 */
    int64_t quarters[4];            /* M4 of the design */
    int32_t lowest, highest;        /* log scales that can be sent */
    int32_t scales[129];            /* T of the design */
    int32_t eighths[8];             /* M8 of the design */
    float cosines[EDGE + 1];        /* of pi i / 128 */
    splits_t inverse64;             /* filled by `native_prepare` */
} tables_t;

typedef struct {
    const float *gradient; /* rows x columns; NULL: the momentum only decays */
    float *momentum;       /* chunks x coefficients */
    float *originals;      /* chunks x topk: the momentum before it was taken out */
    int16_t *scales;       /* chunks: log scales of what is sent */
    float *update;         /* rows x columns */
    int64_t rows, columns, chunk_columns, num_chunks;
    int64_t first_chunk;   /* chunks of all parameters before this one */
    int64_t section;       /* offset of its section in a body */
    int32_t height, width, topk, is_vector;
    int32_t low_bits, upper_bytes, index_bytes, record_bytes;
    float weight;          /* of the gradient */
    int32_t largest;       /* bits of the largest magnitude in the gradient */
    int32_t is_wrong;      /* whether the section is none that its encoder writes */
    uint64_t square[4];    /* two 128-bit numbers a, b: a + 2^32 b is the sum of squares sent, base 0, times 2^30 */
    uint64_t shifted[4];   /* the same for the base modulo 4 */
} parameter_t;

enum { FOLD = 1, TAKE = 2 };

typedef struct {
    const tables_t *tables;
    parameter_t *parameters;
    uint8_t *body;               /* send: what is written */
    const uint8_t *const *bodies;/* receive: one of each peer, checked */
    const int32_t *mantissas;    /* receive, equalised: weights, peers x parameters; else NULL */
    const int32_t *exponents;
    int64_t num_parameters, num_chunks, num_peers;
    int64_t next;                /* first chunk (or parameter) that no thread has taken */
    float decay;
    int32_t steps;               /* send: FOLD, TAKE or both */
    int32_t is_mean;             /* receive */
    int32_t is_clip;             /* receive, equalised: the weights are for scales with their bases */
} job_t;

/* A function of the library that threads share: native_send, ... */
typedef void (*work_t)(job_t *);

#endif
