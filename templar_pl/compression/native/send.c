/* Momentum of a gradient, the largest of it, and the bytes that say so; chunk by chunk, while it is in the cache. */
#include "cosine.h"
#include "native.h"
#include "record.h"
#include "select.h"
#include "transform.h"
#include "work.h"

#define NOTHING INT16_MIN /* scale of a chunk that keeps nothing */

/* Copy the tile of a chunk at the edge of a matrix, padded with zeros. */
static void copy_tile(const parameter_t *p, long row, long column, float *tile) {
    const long height = p->rows - row < p->height ? p->rows - row : p->height;
    const long width = p->columns - column < p->width ? p->columns - column : p->width;
    memset(tile, 0, sizeof(float) * p->height * p->width);
    for (long r = 0; r < height; r++)
        memcpy(tile + r * p->width, p->gradient + (row + r) * p->columns + column, sizeof(float) * width);
}

static void decay_only(float *momentum, int numel, float decay) {
    for (int i = 0; i < numel; i++) momentum[i] *= decay;
}

static void fold_chunk(const job_t *job, const parameter_t *p, int64_t chunk, float *momentum, int32_t *maxima) {
    const int numel = p->height * p->width;
    if (!p->gradient) {
        decay_only(momentum, numel, job->decay);
        return;
    }
    const long row = chunk / p->chunk_columns * p->height, column = chunk % p->chunk_columns * p->width;
    const int is_whole = row + p->height <= p->rows && column + p->width <= p->columns;
    float a[NUMEL] __attribute__((aligned(64))), b[NUMEL] __attribute__((aligned(64)));
    const float *tile = a;
    long stride = p->width;
    if (is_whole) tile = p->gradient + row * p->columns + column, stride = p->columns;
    else copy_tile(p, row, column, a);
    if (numel == NUMEL) {
        forward64(job->tables->cosines, tile, stride, b, next_tile(p, p->gradient, chunk));
        transpose64(b, a);
        forward64(job->tables->cosines, a, EDGE, b, (ahead_t){momentum + NUMEL, EDGE});
        fold_transposed64(momentum, b, job->decay, p->weight / 32, maxima);
        return;
    }
    if (is_whole) copy_tile(p, row, column, a);
    forward_any(job->tables, p, a, b);
    for (int i = 0; i < numel; i++) momentum[i] = job->decay * momentum[i] + p->weight * b[i];
}

/* Return the log scale nearest to a magnitude above zero, by exact comparisons, as `quantise.py` does. */
static int log_scale(const tables_t *t, double magnitude) {
    union { double value; uint64_t bits; } number = {magnitude};
    const int octave = (int)(number.bits >> 52) - 1023;
    number.bits = (number.bits & ((1ull << 52) - 1)) | 1023ull << 52;
    int scale = 8 * octave;
    for (int i = 0; i < 8; i++) scale += number.value > t->borders[i];
    return scale < t->lowest ? t->lowest : scale > t->highest ? t->highest : scale;
}

static void take_chunk(const job_t *job, parameter_t *p, int64_t chunk, float *momentum, const int32_t *maxima) {
    const layout_t f = is_usual(p) ? USUAL : layout_of(p);
    uint8_t *record = job->body + p->section + BASE_BYTES + p->num_chunks + chunk * f.record_bytes;
    float *originals = p->originals + chunk * f.topk;
    found_t found;
    uint16_t places[NUMEL];
    const int count = select_largest(momentum, p->height * p->width, f.topk, maxima, &found, places);
    double sum = 0;
    for (int i = 0; i < count; i++) sum += __builtin_fabsf(originals[i] = momentum[places[i]]);
    if (is_usual(p)) write_places(record, places, count, USUAL), write_signs(record, momentum, places, count, USUAL);
    else write_places(record, places, count, f), write_signs(record, momentum, places, count, f);
    p->scales[chunk] = NOTHING;
    if (count == 0) return;
    const int scale = log_scale(job->tables, sum / count);
    const float magnitude = job->tables->magnitudes[scale - job->tables->lowest];
    p->scales[chunk] = (int16_t)scale;
    for (int i = 0; i < count; i++) momentum[places[i]] -= originals[i] < 0 ? -magnitude : magnitude;
}

/* FOLD, TAKE or both, for all chunks that no other thread takes. */
void native_send(job_t *job) {
    int64_t first, last;
    parameter_t *p;
    while ((p = take_chunks(job, &first, &last)))
        for (int64_t chunk = first; chunk < last; chunk++) {
            float *momentum = p->momentum + chunk * p->height * p->width;
            const int is_square = p->height * p->width == NUMEL;
            int32_t maxima[GROUPS];
            if (job->steps & FOLD) fold_chunk(job, p, chunk, momentum, maxima);
            if (is_square && !(job->steps & FOLD && p->gradient)) find_maxima(momentum, maxima);
            if (job->steps & TAKE) take_chunk(job, p, chunk, momentum, is_square ? maxima : NULL);
        }
}

static void put_back(const parameter_t *p, const uint8_t *record, int64_t chunk) {
    const layout_t f = layout_of(p);
    uint16_t places[NUMEL];
    read_places(record, places, f);
    const int count = sent_of(places, f.topk);
    for (int i = 0; i < count; i++)
        p->momentum[chunk * p->height * p->width + places[i]] = p->originals[chunk * f.topk + i];
}

/* Write base and scale codes, for all parameters that no other thread takes; follows TAKE of all chunks.
 *
 * A chunk too far below the loudest sends nothing after all. */
void native_finish(job_t *job) {
    parameter_t *p;
    while ((p = take_parameter(job))) {
        uint8_t *section = job->body + p->section;
        int loudest = NOTHING;
        for (int64_t n = 0; n < p->num_chunks; n++) loudest = p->scales[n] > loudest ? p->scales[n] : loudest;
        const int base = loudest == NOTHING ? 0 : loudest - 255;
        section[0] = (uint8_t)base, section[1] = (uint8_t)(base >> 8);
        for (int64_t n = 0; n < p->num_chunks; n++) {
            uint8_t *record = section + BASE_BYTES + p->num_chunks + n * p->record_bytes;
            const int code = p->scales[n] - base;
            const int is_sent = p->scales[n] != NOTHING && code > 0;
            section[BASE_BYTES + n] = (uint8_t)(is_sent ? code : 0);
            if (is_sent || p->scales[n] == NOTHING) continue;
            put_back(p, record, n);
            write_places(record, NULL, 0, layout_of(p));
            write_signs(record, NULL, NULL, 0, layout_of(p));
        }
    }
}

/* Put back what TAKE took out, for all parameters that no other thread takes. */
void native_restore(job_t *job) {
    parameter_t *p;
    while ((p = take_parameter(job))) {
        const uint8_t *codes = job->body + p->section + BASE_BYTES, *records = codes + p->num_chunks;
        for (int64_t n = 0; n < p->num_chunks; n++)
            if (codes[n]) put_back(p, records + n * p->record_bytes, n);
    }
}

/* Find the largest magnitude of every gradient; one that is not finite counts as larger than all others. */
void native_largest(job_t *job) {
    int64_t first, last;
    parameter_t *p;
    while ((p = take_chunks(job, &first, &last))) {
        if (!p->gradient) continue;
        const int64_t numel = p->rows * p->columns, size = p->height * p->width;
        const int64_t begin = first * size < numel ? first * size : numel, end = last * size < numel ? last * size : numel;
        int32_t most = 0;
        for (int64_t i = begin; i < end; i++) {
            const int32_t bits = ((const int32_t *)p->gradient)[i] & 0x7fffffff;
            most = bits > most ? bits : most;
        }
        int32_t seen = __atomic_load_n(&p->largest, __ATOMIC_RELAXED);
        while (seen < most && !__atomic_compare_exchange_n(&p->largest, &seen, most, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    }
}
