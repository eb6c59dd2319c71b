/* How threads share a job. */
#ifndef TEMPLAR_WORK_H
#define TEMPLAR_WORK_H

#include <stddef.h>

#include "native.h"

/* Take chunks first..last - 1 of one parameter; NULL if none is left. */
static parameter_t *take_chunks(job_t *job, int64_t *first, int64_t *last) {
    for (;;) {
        int64_t taken = __atomic_load_n(&job->next, __ATOMIC_RELAXED);
        if (taken >= job->num_chunks) return NULL;
        int64_t low = 0, high = job->num_parameters - 1; /* the last parameter that begins at or before it */
        while (low < high) {
            const int64_t middle = (low + high + 1) / 2;
            if (job->parameters[middle].first_chunk <= taken) low = middle;
            else high = middle - 1;
        }
        parameter_t *p = job->parameters + low;
        *first = taken - p->first_chunk;
        *last = *first + CHUNKS_AT_ONCE < p->num_chunks ? *first + CHUNKS_AT_ONCE : p->num_chunks;
        const int64_t next = p->first_chunk + *last;
        if (__atomic_compare_exchange_n(&job->next, &taken, next, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return p;
    }
}

/* Take a parameter; NULL if none is left. */
static parameter_t *take_parameter(job_t *job) {
    const int64_t taken = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    return taken < job->num_parameters ? job->parameters + taken : NULL;
}

#endif
