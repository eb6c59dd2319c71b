/* Threads of one call: they live as long as it does, so none waits in vain and a fork meets none of them. */
#include <pthread.h>
#include <signal.h>

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

/* Block all signals in this thread but those that a thread brings upon itself; remember which were blocked before.
 *
 * A thread begins with the mask of its maker. The signals of the process are meant for the threads that made the
 * process: a handler of theirs must not run in a helper. */
static int block_signals(sigset_t *before) {
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t all;
    sigfillset(&all);
    for (unsigned i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&all, own[i]);
    return pthread_sigmask(SIG_BLOCK, &all, before);
}

/* Do the work of a job here and in up to `helpers` threads. With fewer, or none, the work is done all the same. */
void native_run(work_t work, job_t *job, int helpers) {
    pthread_t started[MOST_HELPERS];
    pthread_attr_t attributes;
    sigset_t before;
    call_t call = {work, job};
    int count = 0;
    if (helpers > 0 && pthread_attr_init(&attributes) == 0) {
        const int is_blocked = block_signals(&before) == 0;
        pthread_attr_setstacksize(&attributes, STACK_BYTES);
        while (count < helpers && count < MOST_HELPERS)
            if (pthread_create(&started[count], &attributes, help, &call)) break;
            else count++;
        if (is_blocked) pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
    }
    work(job);
    while (count) pthread_join(started[--count], NULL);
}
