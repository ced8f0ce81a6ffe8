/* Waits until an instant of the clock that the program sees, as the kernel waits by the machine's.
 *
 * The C library hands the instant to the kernel, which compares it with the machine's clock, and does so again whenever
 * that is set: set forward it ends the wait, set back it prolongs it. libfaketime reaches neither. Here the instant is
 * compared again and again with the clock that it makes up; in between is waited by a clock that nobody sets.
 *
 * Only cnd_timedwait: it is always of the time of day, and the only wait of that kind that librdkafka imports.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <threads.h>
#include <time.h>

#define SECOND_NS 1000000000LL
#define LOOK_AGAIN_NS 10000000LL

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until)
{
    for (;;) {
        struct timespec now, look;
        clock_gettime(CLOCK_REALTIME, &now);
        long long rest_ns = (until->tv_sec - now.tv_sec) * SECOND_NS + until->tv_nsec - now.tv_nsec;
        if (rest_ns <= 0)
            return thrd_timedout;

        clock_gettime(CLOCK_MONOTONIC, &look);
        look.tv_nsec += rest_ns < LOOK_AGAIN_NS ? rest_ns : LOOK_AGAIN_NS;
        if (look.tv_nsec >= SECOND_NS) {
            look.tv_nsec -= SECOND_NS;
            look.tv_sec += 1;
        }
        /* Both are the same things by other names in glibc. */
        int ended = pthread_cond_clockwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, CLOCK_MONOTONIC, &look);
        if (ended == 0)
            return thrd_success;
        if (ended != ETIMEDOUT)
            return thrd_error;
    }
}
