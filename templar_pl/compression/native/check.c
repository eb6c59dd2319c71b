/* Whether bytes are a section that its encoder writes: `section.py` says what each check is for. */
#include "native.h"
#include "record.h"
#include "work.h"

enum { MIN_BASE = -2048, MAX_BASE = 2047, MAX_CODE = 255 };

static int padding_is_set(uint8_t last, int bits) { return bits % 8 && last >> (bits % 8); }

/* Return how many coefficients a record sends, or -1 if it is not the one way to say what it means. */
INLINE int check_record(const uint8_t *record, int code, int numel, layout_t f) {
    uint16_t places[NUMEL];
    const int upper_bits = f.topk + ((numel - 1) >> f.low_bits);
    int set = 0;
    for (int i = 0; i < f.upper_bytes; i += 8)
        set += __builtin_popcountll(read_bytes(record + i, f.upper_bytes - i));
    if (set != f.topk || padding_is_set(record[f.upper_bytes - 1], upper_bits)) return -1;
    if (f.low_bits && padding_is_set(record[f.index_bytes - 1], f.topk * f.low_bits)) return -1;
    if (padding_is_set(record[f.record_bytes - 1], f.topk)) return -1;
    read_places(record, places, f);
    int descends = 0, ascents = 0, broken = 0, before = 1;
    for (int i = 1; i < f.topk; i++) {
        const int ascends = places[i] > places[i - 1];
        descends |= places[i] < places[i - 1];
        broken |= ascends & !before;
        broken |= sign_bit(record, i, f) & !ascends;
        before = ascends, ascents += ascends;
    }
    if (descends || broken || places[f.topk - 1] >= numel) return -1;
    if (code) return 1 + ascents;
    return places[f.topk - 1] == 0 && !sign_bit(record, 0, f) ? 0 : -1;
}

/* Return whether a record of the usual layout, of a chunk that sends, has 32 places that ascend: then all else is right. */
static int is_full(const uint8_t *record) {
    uint64_t word = read_bytes(record, 8), lows[4];
    uint16_t places[32];
    if (__builtin_popcountll(word) != 32 || word >> 63) return 0;
    for (int h = 0; h < 4; h++) memcpy(lows + h, record + 8 + 7 * h, 8);
#pragma GCC unroll 32
    for (int i = 0; i < 32; i++, word &= word - 1)
        places[i] = (uint16_t)((__builtin_ctzll(word) - i) << 7 | (int)(lows[i / 8] >> (7 * (i % 8)) & 127));
    int descends = 0;
    for (int i = 1; i < 32; i++) descends |= places[i] <= places[i - 1];
    return !descends;
}

/* Add up the squares of what is sent with each code, the scales being `shift` above the codes. */
static void add_squares(const tables_t *t, const int64_t sent[256], int shift, uint64_t square[4]) {
    unsigned __int128 sums[2] = {0, 0};
    for (int code = 0; code < 256; code++) {
        const int scale = code + shift, is_high = scale >= 128;
        sums[is_high] += (unsigned __int128)(sent[code] * t->quarters[scale & 3]) << ((scale >> 2) - 32 * is_high);
    }
    for (int i = 0; i < 2; i++) square[2 * i] = (uint64_t)sums[i], square[2 * i + 1] = (uint64_t)(sums[i] >> 64);
}

/* Return whether the section of a parameter is wrong; if it is not, sum up the squares of what it sends. */
static int check_section(const tables_t *t, const parameter_t *p, const uint8_t *section, uint64_t *square, uint64_t *shifted) {
    const int base = (int16_t)(section[0] | section[1] << 8), numel = p->height * p->width;
    const uint8_t *codes = section + BASE_BYTES, *records = codes + p->num_chunks;
    int64_t sent[256] = {0};
    int largest = 0;
    for (int64_t n = 0; n < p->num_chunks; n++) {
        const uint8_t *record = records + n * p->record_bytes;
        int count = 32;
        if (!is_usual(p)) count = check_record(record, codes[n], numel, layout_of(p));
        else if (!codes[n] || !is_full(record)) count = check_record(record, codes[n], numel, USUAL);
        if (count < 0) return 1;
        sent[codes[n]] += count;
        largest = codes[n] > largest ? codes[n] : largest;
    }
    if (base < MIN_BASE || base > MAX_BASE || (largest && largest != MAX_CODE) || (!largest && base)) return 1;
    add_squares(t, sent, 0, square);
    add_squares(t, sent, base & 3, shifted);
    return 0;
}

/* Check the body of a job, all parameters that no other thread takes. */
void native_check(job_t *job) {
    parameter_t *p;
    while ((p = take_parameter(job))) 
        p->is_wrong = check_section(job->tables, p, job->body + p->section, p->square, p->shifted);
}
