/* Sections in compact form and back: `compact.py` and `enumerative.py` define every bit. */
#include "native.h"
#include "record.h"
#include "work.h"

#define BLOCK 64     /* of places: `enumerative.py` */
#define MAX_WORDS 16 /* of a number */
#define AT_ONCE 8    /* sets that are read in turns */
#define SLACK (1 + 0x1p-40)

_Static_assert(CHUNKS_AT_ONCE % 8 == 0, "what a thread takes must be whole bytes in compact form");

/* One parameter, beside its `parameter_t`. */
typedef struct {
    const uint64_t *exact;  /* [topk][numel + 1][words] */
    const double *nearby;   /* [topk][blocks * BLOCK] */
    const double *coarse;   /* [topk][BLOCK] */
    uint64_t last[MAX_WORDS]; /* the largest number */
    int64_t records;        /* offset of its records in what travels */
    int64_t record_bits, num_bytes; /* of all records */
    int32_t words, bits, tail_bits, blocks;
} compact_t;

typedef struct {
    job_t job;               /* `body`: the sections */
    const compact_t *compacts;
    uint8_t *travels;
} compact_job_t;

/* Or `count` bits, 1..64, into bytes that are zero from `bit` on. */
INLINE void put_bits(uint8_t *bytes, int64_t bit, uint64_t value, int count) {
    uint8_t *to = bytes + bit / 8;
    const int shift = (int)(bit % 8), used = shift + count;
    const uint64_t low = value << shift;
    to[0] |= (uint8_t)low;
    for (int i = 1; i < 8 && 8 * i < used; i++) to[i] = (uint8_t)(low >> (8 * i));
    if (used > 64) to[8] = (uint8_t)(value >> (64 - shift));
}

/* Return `count` bits, 1..64, from `bit` on; `num_bytes` may be read. */
INLINE uint64_t get_bits(const uint8_t *bytes, int64_t num_bytes, int64_t bit, int count) {
    const int64_t first = bit / 8, left = num_bytes - first;
    const int shift = (int)(bit % 8);
    uint64_t value = read_bytes(bytes + first, left < 8 ? (int)left : 8) >> shift;
    if (shift + count > 64) value |= (uint64_t)bytes[first + 8] << (64 - shift);
    return count < 64 ? value & ((1ull << count) - 1) : value;
}

/* Number of a set of ascending places. */
INLINE void number_of(const compact_t *c, const uint16_t *places, int count, int64_t stride, int words, uint64_t *number) {
    memset(number, 0, sizeof(uint64_t) * words);
    for (int j = 0; j < count; j++) {
        const uint64_t *entry = c->exact + j * stride + (places[count - 1 - j] + 1) * words;
        unsigned __int128 sum = 0;
        for (int w = 0; w < words; w++) {
            sum += (unsigned __int128)number[w] + entry[w];
            number[w] = (uint64_t)sum, sum >>= 64;
        }
    }
}

/* Subtract, and return whether the difference is below zero. */
INLINE int subtract(const uint64_t *a, const uint64_t *b, int words, uint64_t *difference) {
    unsigned char borrow = 0;
    for (int w = 0; w < words; w++) {
        const unsigned __int128 d = (unsigned __int128)a[w] - b[w] - borrow;
        difference[w] = (uint64_t)d, borrow = (uint64_t)(d >> 64) & 1;
    }
    return borrow;
}

INLINE int count_up_to(const double *numbers, double limit) {
    int64_t count = 0;
    for (int i = 0; i < BLOCK; i++) count += numbers[i] <= limit;
    return (int)count;
}

/* Return place + 1 of the largest place of a set that may have as many as its budget, and take it off the number; 0 of
 * the empty set. */
INLINE int take_largest(const uint64_t *exact, const double *nearby, const double *coarse, int words, uint64_t *number) {
    uint64_t rest[MAX_WORDS];
    double size = 0;
    for (int w = words - 1; w >= 0; w--) size = size * 0x1p64 + (double)number[w];
    size *= SLACK;
    const int blocks = count_up_to(coarse, size), block = blocks ? blocks - 1 : 0;
    int at = BLOCK * block + count_up_to(nearby + BLOCK * block, size);
    const uint64_t *entry = exact + (int64_t)at * words;
    if (subtract(number, entry, words, rest)) at--, subtract(number, entry - words, words, rest); /* right, or one too high */
    for (int w = 0; w < words; w++) number[w] = rest[w];
    return at;
}

/* Take places + 1 off numbers, the largest first, then zeros. The sets take turns: each step of one waits for memory. */
INLINE void take_places(const compact_t *c, int topk, int64_t stride, int words, uint64_t numbers[][MAX_WORDS],
                        uint16_t found[][NUMEL]) {
    for (int j = 0; j < topk; j++) {
        const uint64_t *exact = c->exact + j * stride;
        const double *nearby = c->nearby + (int64_t)j * c->blocks * BLOCK, *coarse = c->coarse + j * BLOCK;
        for (int g = 0; g < AT_ONCE; g++) found[g][j] = (uint16_t)take_largest(exact, nearby, coarse, words, numbers[g]);
    }
}

INLINE void pack_record(const compact_t *c, const uint8_t *record, int is_sent, layout_t f, int64_t stride, int words,
                        uint8_t *to, int64_t bit) {
    uint16_t places[NUMEL];
    uint64_t number[MAX_WORDS];
    int count = 0;
    if (is_sent) {
        read_places(record, places, f);
        count = sent_of(places, f.topk);
    }
    number_of(c, places, count, stride, words, number);
    for (int i = 0; i < c->bits; i += 64) put_bits(to, bit + i, number[i / 64], c->bits - i < 64 ? c->bits - i : 64);
    for (int i = 0; i < c->tail_bits; i += 64) {
        const int bits = c->tail_bits - i < 64 ? c->tail_bits - i : 64;
        put_bits(to, bit + c->bits + i, read_bytes(record + f.index_bytes + i / 8, (bits + 7) / 8), bits);
    }
}

/* Read a number; return whether it is none of a set, and make it zero then. */
INLINE int read_number(const compact_t *c, const uint8_t *from, int64_t bit, int words, uint64_t *number) {
    uint64_t rest[MAX_WORDS];
    for (int i = 0; i < c->bits; i += 64)
        number[i / 64] = get_bits(from, c->num_bytes, bit + i, c->bits - i < 64 ? c->bits - i : 64);
    const int is_wrong = subtract(c->last, number, words, rest);
    if (is_wrong) memset(number, 0, sizeof(uint64_t) * words);
    return is_wrong;
}

/* Write a record from its places + 1, the largest first, then zeros, and the tail at `bit`; return how many there are. */
INLINE int write_record(const compact_t *c, const uint16_t *found, const uint8_t *from, int64_t bit, layout_t f,
                        uint8_t *record) {
    uint16_t places[NUMEL];
    int count = 0;
    while (count < f.topk && found[count]) count++;
    for (int i = 0; i < count; i++) places[i] = found[count - 1 - i] - 1;
    write_places(record, places, count, f);
    for (int i = 0; i < c->tail_bits; i += 64) {
        const int bits = c->tail_bits - i < 64 ? c->tail_bits - i : 64;
        write_bytes(record + f.index_bytes + i / 8, get_bits(from, c->num_bytes, bit + i, bits), (bits + 7) / 8);
    }
    return count;
}

/* Unpack chunks `first` to `last` - 1, at most AT_ONCE; return whether one is wrong. */
INLINE int unpack_records(const compact_t *c, const uint8_t *from, const uint8_t *codes, int64_t first, int64_t last,
                          layout_t f, int64_t stride, int words, uint8_t *records) {
    uint64_t numbers[AT_ONCE][MAX_WORDS];
    uint16_t found[AT_ONCE][NUMEL];
    int is_wrong = 0;
    for (int g = 0; g < AT_ONCE; g++) {
        if (first + g < last) is_wrong |= read_number(c, from, (first + g) * c->record_bits, words, numbers[g]);
        else memset(numbers[g], 0, sizeof numbers[g]);
    }
    take_places(c, f.topk, stride, words, numbers, found);
    for (int64_t n = first; n < last; n++) {
        uint8_t *record = records + n * f.record_bytes;
        const int count = write_record(c, found[n - first], from, n * c->record_bits + c->bits, f, record);
        is_wrong |= (count > 0) != (codes[n] != 0);
    }
    return is_wrong;
}

/* Write the records of all chunks that no other thread takes in compact form, where all bytes are zero. */
void native_pack(compact_job_t *c) {
    int64_t first, last;
    const parameter_t *p;
    while ((p = take_chunks(&c->job, &first, &last))) {
        const compact_t *form = c->compacts + (p - c->job.parameters);
        const uint8_t *codes = c->job.body + p->section + BASE_BYTES, *records = codes + p->num_chunks;
        uint8_t *to = c->travels + form->records;
        const int64_t numel = p->height * p->width;
        for (int64_t n = first; n < last; n++) {
            const int64_t bit = n * form->record_bits;
            if (is_usual(p) && form->words == 5)
                pack_record(form, records + n * 40, codes[n] != 0, USUAL, (NUMEL + 1) * 5, 5, to, bit);
            else
                pack_record(form, records + n * p->record_bytes, codes[n] != 0, layout_of(p), (numel + 1) * form->words,
                            form->words, to, bit);
        }
    }
}

/* Undo `native_pack` for records of any content; parameters with a wrong one are marked. Places and signs still need
 * `native_check`. */
void native_unpack(compact_job_t *c) {
    int64_t first, last;
    parameter_t *p;
    while ((p = take_chunks(&c->job, &first, &last))) {
        const compact_t *form = c->compacts + (p - c->job.parameters);
        uint8_t *codes = c->job.body + p->section + BASE_BYTES, *records = codes + p->num_chunks;
        const uint8_t *from = c->travels + form->records;
        const int64_t numel = p->height * p->width, used = p->num_chunks * form->record_bits;
        int is_wrong = last == p->num_chunks && used % 8 && from[form->num_bytes - 1] >> (used % 8);
        for (int64_t n = first; n < last; n += AT_ONCE) {
            const int64_t end = n + AT_ONCE < last ? n + AT_ONCE : last;
            if (is_usual(p) && form->words == 5)
                is_wrong |= unpack_records(form, from, codes, n, end, USUAL, (NUMEL + 1) * 5, 5, records);
            else
                is_wrong |= unpack_records(form, from, codes, n, end, layout_of(p), (numel + 1) * form->words,
                                           form->words, records);
        }
        if (is_wrong) __atomic_store_n(&p->is_wrong, 1, __ATOMIC_RELAXED);
    }
}

/* Write the sizes of the structures. */
void native_compact_abi(int64_t sizes[2]) { sizes[0] = sizeof(compact_t), sizes[1] = sizeof(compact_job_t); }
