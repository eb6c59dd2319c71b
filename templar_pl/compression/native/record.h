/* Records of a section: places in Elias-Fano code, then signs. `section.py` and `elias_fano.py` define every bit. */
#ifndef TEMPLAR_RECORD_H
#define TEMPLAR_RECORD_H

#include <string.h>

#include "native.h"
#include "vectors.h"

typedef struct {
    int topk, low_bits, upper_bytes, index_bytes, record_bytes;
} layout_t;

/* The usual layout as constants, so that the compiler can unroll what it is used in. */
static const layout_t USUAL = {32, 7, 8, 36, 40};

INLINE layout_t layout_of(const parameter_t *p) {
    return (layout_t){p->topk, p->low_bits, p->upper_bytes, p->index_bytes, p->record_bytes};
}

INLINE int is_usual(const parameter_t *p) { return p->topk == 32 && p->low_bits == 7 && p->upper_bytes == 8; }

INLINE uint64_t read_bytes(const uint8_t *from, int count) {
    uint64_t word = 0;
    if (count >= 8) memcpy(&word, from, 8);
    else for (int i = 0; i < count; i++) word |= (uint64_t)from[i] << (8 * i);
    return word;
}

INLINE void write_bytes(uint8_t *to, uint64_t word, int count) {
    if (count >= 8) memcpy(to, &word, 8);
    else for (int i = 0; i < count; i++) to[i] = (uint8_t)(word >> (8 * i));
}

/* Write places, `count` of them; fillers repeat the last one, or are 0. */
INLINE void write_places(uint8_t *record, const uint16_t *places, int count, layout_t f) {
    const int filler = count ? places[count - 1] : 0;
    uint64_t upper = 0, low = 0;
    int base = 0, bits = 0;
    uint8_t *to = record + f.upper_bytes;
    for (int i = 0; i < f.topk; i++) {
        const int place = i < count ? places[i] : filler, bit = (place >> f.low_bits) + i;
        while (bit - base >= 64) {
            write_bytes(record + base / 8, upper, 8);
            base += 64, upper = 0;
        }
        upper |= 1ull << (bit - base);
        low |= (uint64_t)(place & ((1 << f.low_bits) - 1)) << bits;
        bits += f.low_bits;
        if (bits >= 32) {
            memcpy(to, &low, 4);
            to += 4, low >>= 32, bits -= 32;
        }
    }
    for (; base < 8 * f.upper_bytes; base += 64, upper = 0) write_bytes(record + base / 8, upper, f.upper_bytes - base / 8);
    for (; to < record + f.index_bytes; to++, low >>= 8) *to = (uint8_t)low;
}

INLINE void write_signs(uint8_t *record, const float *values, const uint16_t *places, int count, layout_t f) {
    for (int first = 0; first < f.topk; first += 8) {
        int byte = 0;
        for (int i = first; i < first + 8 && i < count; i++) byte |= (values[places[i]] < 0) << (i - first);
        record[f.index_bytes + first / 8] = (uint8_t)byte;
    }
}

INLINE int sign_bit(const uint8_t *record, int i, layout_t f) { return record[f.index_bytes + i / 8] >> (i % 8) & 1; }

/* Return the low bits of place i. Reads whole bytes of the record only. */
INLINE int low_part(const uint8_t *record, int i, layout_t f) {
    const int bit = i * f.low_bits, byte = f.upper_bytes + bit / 8, last = f.record_bytes - 1;
    if (f.low_bits == 0) return 0;
    uint32_t word = record[byte];
    if (byte + 1 <= last) word |= (uint32_t)record[byte + 1] << 8;
    if (byte + 2 <= last) word |= (uint32_t)record[byte + 2] << 16;
    return (int)(word >> (bit % 8)) & ((1 << f.low_bits) - 1);
}

/* Read all places, fillers too; the upper part must have topk set bits. */
INLINE void read_places(const uint8_t *record, uint16_t *places, layout_t f) {
    int i = 0;
    for (int base = 0; base < 8 * f.upper_bytes; base += 64)
        for (uint64_t word = read_bytes(record + base / 8, f.upper_bytes - base / 8); word; word &= word - 1, i++)
            places[i] = (uint16_t)((base + __builtin_ctzll(word) - i) << f.low_bits);
    for (i = 0; i < f.topk; i++) places[i] |= (uint16_t)low_part(record, i, f);
}

/* Return how many of the places are no fillers; the chunk must send something. */
INLINE int sent_of(const uint16_t *places, int topk) {
    int count = 1;
    while (count < topk && places[count] != places[count - 1]) count++;
    return count;
}

#endif
