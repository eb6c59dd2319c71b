/* Vectors as wide as the processor's, in the compiler's own notation, and the 8 x 8 transpose.
 *
 * Intrinsics only where the notation has no words, and beside them what other processors run.
 */
#ifndef TEMPLAR_VECTORS_H
#define TEMPLAR_VECTORS_H

#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

/* aligned(4): they are loaded from anywhere in a tensor. */
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t eight_bits __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t places __attribute__((vector_size(32)));

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }
INLINE ivec magnitude_bits(vec value) { return (ivec)value & 0x7fffffff; }
INLINE ivec larger(ivec a, ivec b) {
    for (int lane = 0; lane < LANES; lane++) a[lane] = a[lane] > b[lane] ? a[lane] : b[lane];
    return a;
}
INLINE eight_bits larger_eight(eight_bits a, eight_bits b) {
    for (int lane = 0; lane < 8; lane++) a[lane] = a[lane] > b[lane] ? a[lane] : b[lane];
    return a;
}
INLINE ivec smaller(ivec a, ivec b) {
    for (int lane = 0; lane < LANES; lane++) a[lane] = a[lane] < b[lane] ? a[lane] : b[lane];
    return a;
}
INLINE vec sign_of(ivec x) { return __builtin_convertvector(smaller(larger(x, (ivec){0} - 1), (ivec){0} + 1), vec); }

/* Return a.low * b.low + a.high * b.high in every lane; low and high are the int16 that an int32 is made of. */
INLINE ivec products(ivec a, int32_t b) {
#if defined(__AVX512BW__)
    return (ivec)_mm512_madd_epi16((__m512i)a, _mm512_set1_epi32(b));
#elif defined(__AVX2__)
    return (ivec)_mm256_madd_epi16((__m256i)a, _mm256_set1_epi32(b));
#else
    return ((a << 16) >> 16) * (int16_t)b + (a >> 16) * (b >> 16);
#endif
}

INLINE int32_t largest_lane(ivec value) {
    int32_t largest = 0;
    for (int lane = 0; lane < LANES; lane++) largest = value[lane] > largest ? value[lane] : largest;
    return largest;
}

INLINE int32_t sum_of_lanes(ivec value) {
    int32_t sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += value[lane];
    return sum;
}

/* Nearest integers, halves to the even one, of |x| <= 2^22: the sum has no room for a fraction. */
INLINE vec nearest(vec x) {
    const float room = 0x1.8p23f;
    return (x + room) - room;
}

/* Transpose 8 x 8 values: r[i] is a row before and a column after. */
INLINE void transpose8(eight r[8]) {
    const places low = {0, 8, 1, 9, 4, 12, 5, 13}, high = {2, 10, 3, 11, 6, 14, 7, 15};
    const places first = {0, 1, 8, 9, 4, 5, 12, 13}, second = {2, 3, 10, 11, 6, 7, 14, 15};
    const places lower = {0, 1, 2, 3, 8, 9, 10, 11}, upper = {4, 5, 6, 7, 12, 13, 14, 15};
    eight t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = __builtin_shuffle(r[i], r[i + 1], low);
        t[i + 1] = __builtin_shuffle(r[i], r[i + 1], high);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            u[i + 2 * j] = __builtin_shuffle(t[i + j], t[i + j + 2], first);
            u[i + 2 * j + 1] = __builtin_shuffle(t[i + j], t[i + j + 2], second);
        }
    for (int i = 0; i < 4; i++) {
        r[i] = __builtin_shuffle(u[i], u[i + 4], lower);
        r[i + 4] = __builtin_shuffle(u[i], u[i + 4], upper);
    }
}

#endif
