/* Exact top-k of one chunk: a lower bound from the maxima of small groups, a filter, then a search among what is left.
 *
 * Magnitudes are compared as the integers of their bits, which have the same order.
 */
#ifndef TEMPLAR_SELECT_H
#define TEMPLAR_SELECT_H

#include "native.h"
#include "vectors.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define GROUP 16                  /* coefficients that share a maximum */
#define GROUPS (NUMEL / GROUP)
#define MOST_BY_GROUPS 128        /* for a larger k the bound is too low to help */

typedef struct {
    int32_t keys[NUMEL + 16];     /* bits of the magnitudes */
    uint16_t places[NUMEL];
    int count;
} found_t;

INLINE int count_from(const int32_t *keys, int count, int32_t least) {
    ivec hits = {0};
    for (int i = 0; i < count; i += LANES) hits -= *(const ivec *)(keys + i) >= least;
    return sum_of_lanes(hits);
}

/* Return a number that at least topk of the values reach, with little room left; `count` is a multiple of LANES. */
static int32_t reached_by(const int32_t *values, int count, int topk, int32_t least, int32_t slack) {
    ivec highest = {0};
    for (int i = 0; i < count; i += LANES) highest = larger(highest, *(const ivec *)(values + i));
    int64_t low = least, high = (int64_t)largest_lane(highest) + 1;
    while (high - low > slack) {
        const int64_t middle = low + (high - low) / 2;
        const int hits = count_from(values, count, (int32_t)middle);
        if (hits >= topk) low = middle;
        else high = middle;
        if (hits == topk) break;
    }
    return (int32_t)low;
}

/* Find the largest magnitude of every GROUP of 4096 coefficients. */
static void find_maxima(const float *values, int32_t maxima[GROUPS]) {
    for (int g = 0; g < GROUPS / LANES; g++) {
        ivec most = {0};
        for (int i = 0; i < GROUP; i++) most = larger(most, magnitude_bits(load(values + (g * GROUP + i) * LANES)));
        *(ivec *)(maxima + g * LANES) = most;
    }
}

/* Return a magnitude, above zero, that at least topk of 4096 coefficients reach, if so many are not zero. */
static int32_t lower_bound(const int32_t maxima[GROUPS], int topk) {
    const int32_t octave = 1 << 23;
    ivec all = {0};
    for (int g = 0; g < GROUPS; g += LANES) all = larger(all, *(const ivec *)(maxima + g));
    /* Magnitudes at the threshold are alike: look within four octaves of the largest first. */
    int32_t least = largest_lane(all) - 4 * octave;
    if (least < 1 || count_from(maxima, GROUPS, least) < topk) least = 1;
    return reached_by(maxima, GROUPS, topk, least, octave / 64);
}

INLINE void keep_one(found_t *found, const float *values, int place) {
    union { float value; int32_t bits; } number = {values[place]};
    found->keys[found->count] = number.bits & 0x7fffffff;
    found->places[found->count++] = (uint16_t)place;
}

/* Collect, in order, all places whose magnitude reaches `least`, above zero. */
static void filter(const float *values, int numel, int32_t least, found_t *found) {
    int i = 0;
    found->count = 0;
#if defined(__AVX512F__)
    const __m512i bound = _mm512_set1_epi32(least), bits = _mm512_set1_epi32(0x7fffffff);
    for (; i + 16 <= numel; i += 16) {
        uint32_t hits = _mm512_cmpge_epi32_mask(_mm512_and_epi32(_mm512_loadu_si512(values + i), bits), bound);
        for (; hits; hits &= hits - 1) keep_one(found, values, i + __builtin_ctz(hits));
    }
#elif defined(__AVX2__)
    const __m256i bound = _mm256_set1_epi32(least - 1), bits = _mm256_set1_epi32(0x7fffffff);
    for (; i + 8 <= numel; i += 8) {
        const __m256i magnitudes = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(values + i)), bits);
        uint32_t hits = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(magnitudes, bound)));
        for (; hits; hits &= hits - 1) keep_one(found, values, i + __builtin_ctz(hits));
    }
#endif
    for (; i < numel; i++) {
        keep_one(found, values, i);
        if (found->keys[found->count - 1] < least) found->count--;
    }
}

/* Find the places of the topk largest magnitudes, ascending; of equal ones the lower, zeros never. Return how many. */
static int select_largest(const float *values, int numel, int topk, const int32_t *maxima, found_t *found, uint16_t *places) {
    const int32_t bound = maxima && topk <= MOST_BY_GROUPS ? lower_bound(maxima, topk) : 1;
    filter(values, numel, bound, found);
    const int count = found->count;
    if (count <= topk) {
        for (int i = 0; i < count; i++) places[i] = found->places[i];
        return count;
    }
    const int padded = (count + LANES - 1) / LANES * LANES;
    for (int i = count; i < padded; i++) found->keys[i] = 0;
    const int32_t least = reached_by(found->keys, padded, topk, bound, 1);
    int ties = topk - count_from(found->keys, padded, least + 1), kept = 0;
    for (int i = 0; i < count && kept < topk; i++)
        if (found->keys[i] > least || (found->keys[i] == least && ties-- > 0)) places[kept++] = found->places[i];
    return kept;
}

#endif
