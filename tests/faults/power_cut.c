/* What a power cut would leave at worst: a library for LD_PRELOAD that keeps, in the folder $POWER_CUT_SHADOW, the
 * content of every file as of its last fsync or fdatasync, and the entries of every folder as of its last fsync.
 * A file or folder is known by device, inode number and time of birth, as inode numbers are used again. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int key_at(int folder, const char *name, char *key, size_t size, int *is_folder)
{
    struct statx found;
    int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
    if (statx(folder, name, flags, STATX_TYPE | STATX_INO | STATX_BTIME, &found) != 0)
        return -1;
    if (!(found.stx_mask & STATX_BTIME)) {
        errno = ENOTSUP;
        return -1;
    }
    *is_folder = S_ISDIR(found.stx_mode);
    snprintf(key, size, "%x.%x-%llx-%llx.%x", found.stx_dev_major, found.stx_dev_minor, (unsigned long long)found.stx_ino,
             (unsigned long long)found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    return 0;
}

/* For the tests: the key of a path; 0 when it has one. */
int power_cut_key(const char *path, char *key, size_t size)
{
    int is_folder;
    return key_at(AT_FDCWD, path, key, size, &is_folder);
}

static int copy_entries(int from, FILE *to)
{
    int own = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = own < 0 ? NULL : fdopendir(own);
    if (folder == NULL)
        return -1;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char key[128];
        int is_folder;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (key_at(dirfd(folder), entry->d_name, key, sizeof key, &is_folder) == 0) /* else removed meanwhile */
            fprintf(to, "%c %s %s%c", is_folder ? 'd' : 'f', key, entry->d_name, 0);
    }
    closedir(folder);
    return 0;
}

static int copy_content(int from, FILE *to)
{
    char path[64], buffer[1 << 16];
    snprintf(path, sizeof path, "/proc/self/fd/%d", from); /* opened anew: it may be open for writing only */
    int own = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0)
        return -1;
    ssize_t got;
    while ((got = read(own, buffer, sizeof buffer)) > 0)
        fwrite(buffer, 1, (size_t)got, to);
    close(own);
    return (int)got;
}

/* The kernel has synced the file; now the shadow gets it, in one step, before the caller learns of it. */
static int remember(int descriptor)
{
    const char *shadow = getenv("POWER_CUT_SHADOW");
    char key[128], path[PATH_MAX], temporary[PATH_MAX];
    int is_folder;
    if (shadow == NULL)
        return 0;
    if (key_at(descriptor, "", key, sizeof key, &is_folder) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/%s", shadow, key);
    snprintf(temporary, sizeof temporary, "%s/new-%d", shadow, getpid());
    pthread_mutex_lock(&lock);
    FILE *to = fopen(temporary, "we");
    int result = to == NULL ? -1 : is_folder ? copy_entries(descriptor, to) : copy_content(descriptor, to);
    if (to != NULL && fclose(to) != 0)
        result = -1;
    if (result == 0)
        result = rename(temporary, path);
    pthread_mutex_unlock(&lock);
    return result;
}

static int synced(const char *name, int descriptor)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(descriptor);
    return result == 0 ? remember(descriptor) : result;
}

int fsync(int descriptor)
{
    return synced("fsync", descriptor);
}

int fdatasync(int descriptor)
{
    return synced("fdatasync", descriptor);
}
