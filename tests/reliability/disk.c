/* A disk that fails on demand: preloaded into a process, it counts, logs, kills at or refuses what is done to files.
 *
 * Every call that changes what lies below `root` is one operation, numbered from 1. Python arms it through ctypes:
 * see disk.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long count, kill_at, fail_at;
static int torn, number, failure, log_fd = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* kill: before operation `kill_at_` (0: never) signal `number_` is raised; a write then leaves half of its bytes if
 * `torn_`.
 * fail: operation `fail_at_` gives the error; where the disk is full, so do all later ones, but no removal. */
void disk_arm(const char *root_, long kill_at_, int number_, int torn_, long fail_at_, int failure_, const char *log) {
    snprintf(root, sizeof root, "%s", root_);
    count = 0, kill_at = kill_at_, number = number_, torn = torn_, fail_at = fail_at_, failure = failure_;
    log_fd = log[0] ? REAL(open)(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600) : -1;
}

long disk_count(void) { return count; }

/* The absolute path of `name` as seen from the folder `at`, or of the open file `at` if name is NULL; "" on failure. */
static void resolve(int at, const char *name, char *path) {
    char link[64];
    ssize_t length = 0;
    path[0] = 0;
    if (name && name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    if (at == AT_FDCWD) {
        if (!getcwd(path, PATH_MAX)) return;
        length = strlen(path);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        if ((length = readlink(link, path, PATH_MAX - 1)) < 0) length = 0;
        path[length] = 0;
    }
    if (name) snprintf(path + length, PATH_MAX - length, "/%s", name);
}

static int inside(const char *path) {
    size_t length = strlen(root);
    return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* Note one operation. Returns an error number if it is to fail, -1 if half of it is to be done before the end. */
static int note(const char *what, const char *path, const char *to, int fd, long offset, const void *data, size_t size) {
    count++;
    if (log_fd >= 0) {
        char head[3 * PATH_MAX];
        struct stat status = {0};
        if (fd >= 0) fstat(fd, &status);  /* its inode tells renames that were not seen */
        int length = snprintf(head, sizeof head, "%s\t%s\t%s\t%ld\t%ld\t%zu\n", what, path, to, (long)status.st_ino,
                              offset, data ? size : 0);
        REAL(write)(log_fd, head, length);
        if (data) REAL(write)(log_fd, data, size);
    }
    if (count == kill_at) {
        if (torn && !strcmp(what, "write") && size > 1) return -1;
        raise(number);
    }
    int removal = !strcmp(what, "unlink") || !strcmp(what, "rmdir");
    if (fail_at && failure == ENOSPC) return count >= fail_at && !removal ? failure : 0;
    if (count == fail_at) return failure;
    return 0;
}

#define FAIL_IF(number) do { int number_ = (number); if (number_ > 0) { errno = number_; return -1; } } while (0)

static int opened(int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    resolve(at, name, path);
    if (inside(path) && (flags & (O_CREAT | O_TRUNC))) {
        struct stat status;
        int exists = !stat(path, &status);
        if (!exists || (flags & O_TRUNC && status.st_size))
            FAIL_IF(note(exists ? "truncate" : "create", path, "", -1, 0, NULL, 0));
    }
    return REAL(openat)(at, name, flags, mode);
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int at, const char *name, int flags, ...) { MODE return opened(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE return opened(at, name, flags | O_LARGEFILE, mode); }

static ssize_t written(int fd, const void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    int at_place = offset >= 0;
    resolve(fd, NULL, path);
    if (inside(path)) {
        struct stat status;
        int append = fcntl(fd, F_GETFL) & O_APPEND;
        if (!at_place) offset = append && !fstat(fd, &status) ? status.st_size : lseek(fd, 0, SEEK_CUR);
        int fate = note("write", path, "", fd, offset, data, size);
        FAIL_IF(fate);
        if (fate < 0) {
            REAL(pwrite)(fd, data, size / 2, offset);
            raise(SIGKILL);
        }
    }
    return at_place ? REAL(pwrite)(fd, data, size, offset) : REAL(write)(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return written(fd, data, size, offset); }

ssize_t writev(int fd, const struct iovec *parts, int number) {
    ssize_t total = 0;
    for (int i = 0; i < number; i++) {
        ssize_t done = written(fd, parts[i].iov_base, parts[i].iov_len, -1);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

static int synced(int fd, const char *what) {
    char path[PATH_MAX];
    resolve(fd, NULL, path);
    if (inside(path)) FAIL_IF(note(what, path, "", fd, 0, NULL, 0));
    return 0;
}

int fsync(int fd) { return synced(fd, "fsync") ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return synced(fd, "fsync") ? -1 : REAL(fdatasync)(fd); }

static int truncated(int fd, off_t size) {
    char path[PATH_MAX];
    resolve(fd, NULL, path);
    if (inside(path)) FAIL_IF(note("resize", path, "", fd, size, NULL, 0));
    return 0;
}

int ftruncate(int fd, off_t size) { return truncated(fd, size) ? -1 : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncated(fd, size) ? -1 : REAL(ftruncate64)(fd, size); }

int mkdir(const char *name, mode_t mode) {
    char path[PATH_MAX];
    struct stat status;
    resolve(AT_FDCWD, name, path);
    if (inside(path) && lstat(path, &status)) FAIL_IF(note("mkdir", path, "", -1, 0, NULL, 0));
    return REAL(mkdir)(name, mode);
}

int unlinkat(int at, const char *name, int flags) {
    char path[PATH_MAX];
    struct stat status;
    resolve(at, name, path);
    if (inside(path) && !lstat(path, &status)) FAIL_IF(note(flags & AT_REMOVEDIR ? "rmdir" : "unlink", path, "", -1, 0, NULL, 0));
    return REAL(unlinkat)(at, name, flags);
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char path[PATH_MAX], target[PATH_MAX];
    resolve(from_at, from, path);
    resolve(to_at, to, target);
    if (inside(path) || inside(target)) FAIL_IF(note("rename", path, target, -1, 0, NULL, 0));
    return REAL(renameat2)(from_at, from, to_at, to, flags);
}

int renameat(int from_at, const char *from, int to_at, const char *to) { return renameat2(from_at, from, to_at, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
