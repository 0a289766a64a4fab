/* Makes every sync of a file take at least as long as on the disks of a NAS. Preloaded by bench/nas.py:
 *
 *     cc -shared -fPIC -O2 -o slow_sync.so slow_sync.c -ldl
 *     SLOW_SYNC_MS=15 LD_PRELOAD=./slow_sync.so PROGRAM
 *
 * The sync itself is done; what is left of the time is slept. Syncs of several threads or processes take their time side
 * by side, as those of a journalling file system that commits them together. Threads and child processes are slowed too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static struct timespec end_of_sync(void)
{
    const char *text = getenv("SLOW_SYNC_MS");
    long nanoseconds = (text ? atol(text) : 15) * 1000000L;
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += (end.tv_nsec + nanoseconds) / 1000000000L;
    end.tv_nsec = (end.tv_nsec + nanoseconds) % 1000000000L;
    return end;
}

static void wait_for(const struct timespec *end)
{
    int error = errno;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, end, NULL) == EINTR)
        ;
    errno = error;
}

#define SLOW(name, parameters, arguments, slow)                              \
    int name parameters                                                      \
    {                                                                        \
        int (*real) parameters = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        struct timespec end = end_of_sync();                                 \
        int result = real arguments;                                         \
        if (slow)                                                            \
            wait_for(&end);                                                  \
        return result;                                                       \
    }

SLOW(fsync, (int descriptor), (descriptor), 1)
SLOW(fdatasync, (int descriptor), (descriptor), 1)
SLOW(syncfs, (int descriptor), (descriptor), 1)
SLOW(msync, (void *start, size_t length, int flags), (start, length, flags), flags & MS_SYNC)
SLOW(sync_file_range, (int descriptor, off64_t offset, off64_t count, unsigned int flags),
     (descriptor, offset, count, flags), flags & (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER))
