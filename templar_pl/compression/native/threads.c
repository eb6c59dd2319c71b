/* Threads of one call: they live as long as it does, so none waits in vain and a fork meets none of them. */
#include <pthread.h>

#include "native.h"

#define MOST_HELPERS 255
#define STACK_BYTES (1 << 20) /* platforms differ in what they give; the largest scratch takes a tenth of it */

typedef struct {
    work_t work;
    job_t *job;
} call_t;

static void *help(void *call) {
    ((call_t *)call)->work(((call_t *)call)->job);
    return NULL;
}

/* Do the work of a job here and in up to `helpers` threads. With fewer, or none, the work is done all the same. */
void native_run(work_t work, job_t *job, int helpers) {
    pthread_t started[MOST_HELPERS];
    pthread_attr_t attributes;
    call_t call = {work, job};
    int count = 0;
    if (helpers > 0 && pthread_attr_init(&attributes) == 0) {
        pthread_attr_setstacksize(&attributes, STACK_BYTES);
        while (count < helpers && count < MOST_HELPERS)
            if (pthread_create(&started[count], &attributes, help, &call)) break;
            else count++;
        pthread_attr_destroy(&attributes);
    }
    work(job);
    while (count) pthread_join(started[--count], NULL);
}
