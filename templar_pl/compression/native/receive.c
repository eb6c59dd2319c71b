/* The update that payloads make, in integers: `combine.py` and `exact.py` are the definition.
 *
 * Additions of integers are exact in any order, and so are fp32 sums of integers below 2^24.
 */
#include "inverse.h"
#include "native.h"
#include "record.h"
#include "transform.h"
#include "work.h"

#define OPERAND_LIMIT 1023
#define MAX_PEERS 512
#define CLIP_ORIGIN 2048
#define COUNT_BITS 16 /* low bits of a tally: how many sent a coefficient; above them the sum of what they sent */

typedef struct {
    int64_t tallies[NUMEL];
    uint64_t touched[NUMEL / 64]; /* bit i % 64 of word i / 64: coefficient i was sent */
    float values[NUMEL + LANES], senders[NUMEL + LANES]; /* of what was sent, in order */
    float rows[NUMEL] __attribute__((aligned(64)));      /* transformed along the rows */
    int32_t pairs[NUMEL / 2] __attribute__((aligned(64)));
    float tile[NUMEL];
    int64_t scales[MAX_PEERS];
} scratch_t;

static const uint8_t *section_of(const job_t *job, const parameter_t *p, int64_t peer) {
    return job->bodies[peer] + p->section;
}

static int plain_octaves(const job_t *job, const parameter_t *p, int64_t chunk, int64_t *scales) {
    int loudest = INT32_MIN;
    for (int64_t q = 0; q < job->num_peers; q++) {
        const uint8_t *section = section_of(job, p, q);
        const int code = section[BASE_BYTES + chunk], scale = (int16_t)(section[0] | section[1] << 8) + code;
        scales[q] = code ? scale : INT32_MIN;
        if (code && scale > loudest) loudest = scale;
    }
    if (loudest == INT32_MIN) return 0;
    for (int64_t q = 0; q < job->num_peers; q++) {
        const int64_t distance = loudest - scales[q];
        scales[q] = scales[q] == INT32_MIN ? 0 : job->tables->scales[distance > 128 ? 128 : distance];
    }
    return 1;
}

static int64_t shift_to_nearest(int64_t number, int shift) {
    const int64_t quotient = number >> shift, rest = number - (quotient << shift), half = 1ll << (shift - 1);
    return quotient + (rest > half || (rest == half && (quotient & 1)));
}

/* Return what is added to the codes of a peer before its weight. */
static int origin_of(const job_t *job, const uint8_t *section) {
    return job->is_clip ? (int16_t)(section[0] | section[1] << 8) + CLIP_ORIGIN : 0;
}

static int equalised_octaves(const job_t *job, const parameter_t *p, int64_t chunk, int64_t *scales) {
    const int64_t own = p - job->parameters;
    int largest = INT32_MIN;
    for (int64_t q = 0; q < job->num_peers; q++) {
        const uint8_t *section = section_of(job, p, q);
        const int code = section[BASE_BYTES + chunk], scale = code + origin_of(job, section);
        const int octave = (scale >> 3) - job->exponents[q * job->num_parameters + own];
        if (code && octave > largest) largest = octave;
        scales[q] = code ? scale : -1;
    }
    if (largest == INT32_MIN) return 0;
    for (int64_t q = 0; q < job->num_peers; q++) {
        const int64_t weight = q * job->num_parameters + own, scale = scales[q];
        const int64_t shift = 14 + largest - (scale >> 3) + job->exponents[weight];
        const int64_t number = (int64_t)job->mantissas[weight] * job->tables->eighths[scale & 7];
        scales[q] = scale < 0 ? 0 : shift_to_nearest(number, shift > 40 ? 40 : (int)shift);
    }
    return 1;
}

/* Add what one peer sends in one chunk. */
INLINE void tally_record(scratch_t *s, const uint8_t *record, int64_t scale, layout_t f) {
    const int64_t steps[2] = {(scale << COUNT_BITS) + 1, -(scale << COUNT_BITS) + 1};
    int i = 0, before = -1;
    for (int base = 0; base < 8 * f.upper_bytes; base += 64)
        for (uint64_t word = read_bytes(record + base / 8, f.upper_bytes - base / 8); word; word &= word - 1, i++) {
            const int upper = base + __builtin_ctzll(word) - i, place = upper << f.low_bits | low_part(record, i, f);
            if (place == before) return; /* fillers */
            s->tallies[place] += steps[sign_bit(record, i, f)];
            s->touched[place >> 6] |= 1ull << (place & 63);
            before = place;
        }
}

/* The same for the usual layout: bits of known places are cut out of words. */
static void tally_usual(scratch_t *s, const uint8_t *record, int64_t scale) {
    const int64_t steps[2] = {(scale << COUNT_BITS) + 1, -(scale << COUNT_BITS) + 1};
    uint64_t word = read_bytes(record, 8), lows[4];
    const uint32_t signs = (uint32_t)read_bytes(record + 36, 4);
    for (int h = 0; h < 4; h++) memcpy(lows + h, record + 8 + 7 * h, 8); /* the last byte is the next seven's, or signs */
    int before = -1;
#pragma GCC unroll 32
    for (int i = 0; i < 32; i++, word &= word - 1) {
        const int place = (__builtin_ctzll(word) - i) << 7 | (int)(lows[i / 8] >> (7 * (i % 8)) & 127);
        if (place == before) return; /* fillers */
        s->tallies[place] += steps[signs >> i & 1];
        s->touched[place >> 6] |= 1ull << (place & 63);
        before = place;
    }
}

static float largest_of(const float *values, int count) {
    ivec most = {0};
    for (int i = 0; i < count; i += LANES) most = larger(most, magnitude_bits(load(values + i)));
    const union { int32_t bits; float value; } number = {largest_lane(most)};
    return number.value;
}

/* Return the largest power of two, at most 1, that brings integers into the limit. */
static float power_for(float largest) {
    float power = 1;
    while (largest * power > OPERAND_LIMIT) power *= 0.5f;
    return power;
}

/* Multiply integers, padded to LANES, by that power, halves to even. */
static void rescale(float *values, int count) {
    const float power = power_for(largest_of(values, count));
    if (power == 1) return;
    for (int i = 0; i < count; i += LANES) store(values + i, nearest(load(values + i) * power));
}

/* Collect the combined values in order, rescaled; forget the tallies. Return how many there are. */
static int collect(scratch_t *s, int is_mean) {
    int count = 0;
    for (int w = 0; w < NUMEL / 64; w++)
        for (uint64_t word = s->touched[w]; word; word &= word - 1) {
            int64_t *tally = s->tallies + 64 * w + __builtin_ctzll(word);
            s->values[count] = (float)(int32_t)(*tally >> COUNT_BITS);
            s->senders[count++] = (float)(int32_t)(*tally & ((1 << COUNT_BITS) - 1));
            *tally = 0;
        }
    for (int i = count; i % LANES; i++) s->values[i] = 0, s->senders[i] = 1;
    if (is_mean)
        for (int i = 0; i < count; i += LANES)
            store(s->values + i, nearest(load(s->values + i) / load(s->senders + i)));
    rescale(s->values, count);
    return count;
}

/* Transform along the rows, only what was sent; 64 coefficients a row. */
static void across64(const tables_t *t, scratch_t *s) {
    const float *value = s->values;
    for (int r = 0; r < EDGE; r++) {
        vec sums[EDGE / LANES] = {0};
        for (uint64_t word = s->touched[r]; word; word &= word - 1, value++) {
            const float *basis = t->inverse[EDGE] + EDGE * __builtin_ctzll(word);
            for (int i = 0; i < EDGE / LANES; i++) sums[i] += *value * load(basis + i * LANES);
        }
        for (int i = 0; i < EDGE / LANES; i++) store(s->rows + r * EDGE + i * LANES, sums[i]);
    }
}

static void across_any(const tables_t *t, const parameter_t *p, scratch_t *s) {
    const float *value = s->values;
    const int width = p->width;
    memset(s->rows, 0, sizeof s->rows);
    for (int w = 0; w < NUMEL / 64; w++)
        for (uint64_t word = s->touched[w]; word; word &= word - 1, value++) {
            const int place = 64 * w + __builtin_ctzll(word);
            float *row = s->rows + place / width * width;
            const float *basis = t->inverse[width] + place % width * width;
            for (int x = 0; x < width; x++) row[x] += *value * basis[x];
        }
}

static void paste_tile(const parameter_t *p, long row, long column, const float *tile, int has_signs) {
    for (long r = 0; r < p->height && row + r < p->rows; r++)
        for (long c = 0; c < p->width && column + c < p->columns; c++) {
            const float x = tile[r * p->width + c];
            p->update[(row + r) * p->columns + column + c] = has_signs ? x : (float)((x > 0) - (x < 0));
        }
}

static void receive_chunk(const job_t *job, const parameter_t *p, int64_t chunk, scratch_t *s) {
    const long row = chunk / p->chunk_columns * p->height, column = chunk % p->chunk_columns * p->width;
    const int numel = p->height * p->width, usual = is_usual(p);
    const int is_sent = (job->mantissas ? equalised_octaves : plain_octaves)(job, p, chunk, s->scales);
    memset(s->touched, 0, sizeof s->touched);
    for (int64_t q = 0; is_sent && q < job->num_peers; q++) {
        const uint8_t *section = section_of(job, p, q), *records = section + BASE_BYTES + p->num_chunks;
        if (section[BASE_BYTES + chunk] == 0) continue;
        if (usual) tally_usual(s, records + chunk * 40, s->scales[q]);
        else tally_record(s, records + chunk * p->record_bytes, s->scales[q], layout_of(p));
    }
    collect(s, job->is_mean);
    if (numel == NUMEL) {
        across64(job->tables, s);
        pair_frequencies(s->rows, power_for(largest_of(s->rows, NUMEL)), s->pairs);
        if (row + EDGE <= p->rows && column + EDGE <= p->columns) {
            inverse64_signs(&job->tables->inverse64, s->pairs, p->update + row * p->columns + column, p->columns,
                            next_tile(p, p->update, chunk));
            return;
        }
        inverse64_signs(&job->tables->inverse64, s->pairs, s->tile, EDGE, (ahead_t){s->tile, 0});
        paste_tile(p, row, column, s->tile, 1);
        return;
    }
    across_any(job->tables, p, s);
    if (p->is_vector) {
        paste_tile(p, row, column, s->rows, 0);
        return;
    }
    rescale(s->rows, NUMEL);
    inverse_any_signs(job->tables, p, s->rows, s->tile);
    paste_tile(p, row, column, s->tile, 1);
}

/* Write the signs of all chunks that no other thread takes. */
void native_receive(job_t *job) {
    scratch_t scratch;
    int64_t first, last;
    const parameter_t *p;
    memset(scratch.tallies, 0, sizeof scratch.tallies);
    while ((p = take_chunks(job, &first, &last)))
        for (int64_t chunk = first; chunk < last; chunk++) receive_chunk(job, p, chunk, &scratch);
}
