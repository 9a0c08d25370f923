/* Faults for tests, between paraffin and the C library (LD_PRELOAD). The environment says which:
 *
 * FAULTS   rules `op,path,first,count,what` with ';' between them: calls `first` to `first + count - 1` (from 1; count 0: all
 *          later ones) of `op` on files whose path contains `path` end with `what`. op: open read write sync rename unlink
 *          mkdir reserve (fallocate), or `change` for any of write sync rename link mkdir. what: an errno as a number, `kill`
 *          (SIGKILL), `term` (SIGTERM to this process, and the call goes on), `gone` (unlinks the file, and the call goes on),
 *          `full` (creates the file FULL, before the call).
 * FAULTS_COUNT  file that gets, for each rule, how many calls matched it; at exit.
 * FULL     path of a file: while it exists, writes, creations and reservations below FULL_ROOT fail with ENOSPC; not writes to
 *          what was reserved before.
 * SLOW     reads of files whose path contains this take SLOW_US microseconds, and all together no more than SLOW_MBPS MB/s.
 * STALL_AFTER  number of such reads after which none ends any more.
 * CLOCK    the wall clock jumps by this many seconds, forth and back, at every call.
 * POWER    directory whose durable state is kept in POWER_SNAPS: what was synced of every file (i<inode>), and what the directories
 *          held when they were synced (d<n>), for a test to go back to after a power cut.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define RULES 32
static struct rule { char op[16], path[256], what[16]; long first, count; atomic_long seen; } rules[RULES];
static int rule_count;
static const char *full, *full_root, *slow, *power, *snaps;
static long slow_us, slow_mbps, stall_after, clock_jump;
static atomic_long slow_reads, clock_calls, listings;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
    full = getenv("FULL"), full_root = getenv("FULL_ROOT"), slow = getenv("SLOW");
    power = getenv("POWER"), snaps = getenv("POWER_SNAPS");
    slow_us = getenv("SLOW_US") ? atol(getenv("SLOW_US")) : 0;
    slow_mbps = getenv("SLOW_MBPS") ? atol(getenv("SLOW_MBPS")) : 0;
    stall_after = getenv("STALL_AFTER") ? atol(getenv("STALL_AFTER")) : 0;
    clock_jump = getenv("CLOCK") ? atol(getenv("CLOCK")) : 0;
    char *text = getenv("FAULTS") ? strdup(getenv("FAULTS")) : NULL, *save = NULL;
    for (char *r = text ? strtok_r(text, ";", &save) : NULL; r && rule_count < RULES; r = strtok_r(NULL, ";", &save)) {
        struct rule *rule = &rules[rule_count];
        if (sscanf(r, "%15[^,],%255[^,],%ld,%ld,%15s", rule->op, rule->path, &rule->first, &rule->count, rule->what) == 5) rule_count++;
        else { fprintf(stderr, "faults: cannot read the rule '%s'\n", r); abort(); }
    }
}

static void tell(void) {
    const char *path = getenv("FAULTS_COUNT");
    if (!path) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < rule_count; i++) dprintf(fd, "%ld\n", atomic_load(&rules[i].seen));
    close(fd);
}
__attribute__((destructor)) static void end(void) { tell(); }

static const char *path_of(int fd, char *buffer, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, size - 1);
    buffer[n < 0 ? 0 : n] = 0;
    return buffer;
}

/* 0, or the errno that the call ends with. */
static int fault(const char *op, const char *path) {
    int change = strcmp(op, "read") && strcmp(op, "open") && strcmp(op, "unlink") && strcmp(op, "reserve");
    for (int i = 0; i < rule_count; i++) {
        struct rule *r = &rules[i];
        if ((strcmp(r->op, op) && (strcmp(r->op, "change") || !change)) || !strstr(path, r->path)) continue;
        long n = atomic_fetch_add(&r->seen, 1) + 1;
        if (n < r->first || (r->count && n >= r->first + r->count)) continue;
        if (!strcmp(r->what, "kill")) { tell(); kill(getpid(), SIGKILL); pause(); }
        else if (!strcmp(r->what, "term")) kill(getpid(), SIGTERM);
        else if (!strcmp(r->what, "gone")) syscall(SYS_unlinkat, AT_FDCWD, path, 0);
        else if (!strcmp(r->what, "full")) close(syscall(SYS_openat, AT_FDCWD, full, O_WRONLY | O_CREAT, 0600));
        else return atoi(r->what);
    }
    return 0;
}

static int is_full(const char *path) {
    return full && full_root && strstr(path, full_root) && !syscall(SYS_faccessat, AT_FDCWD, full, F_OK);
}

/* Where reserved room ends, by inode. */
static _Atomic off_t reserved[4096];
static _Atomic off_t *reserved_of(int fd) {
    struct stat s;
    return fstat(fd, &s) ? NULL : &reserved[s.st_ino % 4096];
}

static int fd_fault(const char *op, int fd) {
    if (!rule_count && !full) return 0;
    char path[4096];
    path_of(fd, path, sizeof path);
    return path[0] == '/' ? fault(op, path) : 0;
}

static double now(void) {
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* The reads share one line: each takes its turn there, and then the way. */
static void travel(int fd, ssize_t bytes) {
    static double line_free;
    char path[4096];
    if (!slow || bytes < 0 || !strstr(path_of(fd, path, sizeof path), slow)) return;
    if (stall_after && atomic_fetch_add(&slow_reads, 1) >= stall_after) for (;;) pause();
    pthread_mutex_lock(&lock);
    double start = now();
    if (line_free < start) line_free = start;
    if (slow_mbps) line_free += bytes / (slow_mbps * 1e6);
    double wait = line_free - start + slow_us * 1e-6;
    pthread_mutex_unlock(&lock);
    struct timespec t = {(time_t)wait, (long)((wait - (time_t)wait) * 1e9)};
    nanosleep(&t, NULL);
}

/* Durable state. */

static int is_kept(const char *path) { return power && snaps && !strncmp(path, power, strlen(power)); }

static int raw_open(const char *path, int flags) { return syscall(SYS_openat, AT_FDCWD, path, flags, 0600); }

static void snap(int fd, const char *path) {
    struct stat s;
    char name[4096], bytes[65536];
    if (fstat(fd, &s) || !is_kept(path)) return;
    pthread_mutex_lock(&lock);
    if (S_ISDIR(s.st_mode)) {
        snprintf(name, sizeof name, "%s/d%06ld", snaps, atomic_fetch_add(&listings, 1));
        int out = raw_open(name, O_WRONLY | O_CREAT | O_TRUNC);
        dprintf(out, "%s\n", path);
        DIR *dir = fdopendir(raw_open(path, O_RDONLY | O_DIRECTORY));
        for (struct dirent *e; dir && (e = readdir(dir));)
            if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
                dprintf(out, "%c %lu %s\n", e->d_type == DT_DIR ? 'd' : 'f', (unsigned long)e->d_ino, e->d_name);
        if (dir) closedir(dir);
        close(out);
    } else {
        snprintf(name, sizeof name, "%s/i%lu", snaps, (unsigned long)s.st_ino);
        int out = raw_open(name, O_WRONLY | O_CREAT | O_TRUNC), in = raw_open(path, O_RDONLY);
        for (ssize_t n; (n = syscall(SYS_read, in, bytes, sizeof bytes)) > 0;)
            if (syscall(SYS_write, out, bytes, n) != n) abort();
        close(in), close(out);
    }
    pthread_mutex_unlock(&lock);
}

/* A new file may have an old one's number. */
static void forget(int fd, const char *path, int flags) {
    struct stat s;
    char name[4096];
    if (fd < 0 || !(flags & (O_CREAT | O_TRUNC)) || !is_kept(path) || fstat(fd, &s) || s.st_size) return;
    snprintf(name, sizeof name, "%s/i%lu", snaps, (unsigned long)s.st_ino);
    if (flags & O_EXCL) syscall(SYS_unlinkat, AT_FDCWD, name, 0);
}

/* The calls. */

#define FAIL(e) do { int fault_ = (e); if (fault_) { errno = fault_; return -1; } } while (0)

static int do_open(int dir, const char *path, int flags, mode_t mode) {
    if (rule_count) FAIL(fault("open", path));
    if ((flags & O_CREAT) && is_full(path)) FAIL(ENOSPC);
    int fd = syscall(SYS_openat, dir, path, flags, mode);
    if (power) forget(fd, path, flags);
    return fd;
}
#define MODE va_list v; va_start(v, flags); mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(v, mode_t) : 0; va_end(v)
int open(const char *path, int flags, ...) { MODE; return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return do_open(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE; return do_open(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE; return do_open(dir, path, flags | O_LARGEFILE, mode); }

#define READ(call) FAIL(fd_fault("read", fd)); ssize_t n = call; if (slow) travel(fd, n); return n
ssize_t read(int fd, void *to, size_t size) { READ(syscall(SYS_read, fd, to, size)); }
ssize_t pread(int fd, void *to, size_t size, off_t at) { READ(syscall(SYS_pread64, fd, to, size, at)); }
ssize_t pread64(int fd, void *to, size_t size, off_t at) { READ(syscall(SYS_pread64, fd, to, size, at)); }

static int write_fault(int fd, off_t end) {
    char path[4096];
    FAIL(fd_fault("write", fd));
    if (full && is_full(path_of(fd, path, sizeof path)) && (!reserved_of(fd) || end > *reserved_of(fd))) FAIL(ENOSPC);
    return 0;
}
#define WRITE(end, call) return write_fault(fd, end) ? -1 : call
#define NOWHERE (((off_t)1) << 62)
ssize_t write(int fd, const void *from, size_t size) { WRITE(NOWHERE, syscall(SYS_write, fd, from, size)); }
ssize_t writev(int fd, const struct iovec *v, int n) { WRITE(NOWHERE, syscall(SYS_writev, fd, v, n)); }
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) { WRITE(at + (off_t)size, syscall(SYS_pwrite64, fd, from, size, at)); }
ssize_t pwrite64(int fd, const void *from, size_t size, off_t at) { WRITE(at + (off_t)size, syscall(SYS_pwrite64, fd, from, size, at)); }

static int reserve(int fd, int mode, off_t at, off_t size) {
    char path[4096];
    FAIL(fd_fault("reserve", fd));
    if (full && is_full(path_of(fd, path, sizeof path))) FAIL(ENOSPC);
    int result = syscall(SYS_fallocate, fd, mode, at, size);
    if (!result && full && reserved_of(fd)) *reserved_of(fd) = at + size;
    return result;
}
int fallocate(int fd, int mode, off_t at, off_t size) { return reserve(fd, mode, at, size); }
int fallocate64(int fd, int mode, off_t at, off_t size) { return reserve(fd, mode, at, size); }

static int do_sync(int fd, int call) {
    char path[4096];
    FAIL(fd_fault("sync", fd));
    int result = syscall(call, fd);
    if (!result && power) snap(fd, path_of(fd, path, sizeof path));
    return result;
}
int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

int rename(const char *from, const char *to) { FAIL(fault("rename", to)); return syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) { FAIL(fault("link", to)); return syscall(SYS_linkat, a, from, b, to, flags); }
int link(const char *from, const char *to) { FAIL(fault("link", to)); return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0); }
int unlink(const char *path) { FAIL(fault("unlink", path)); return syscall(SYS_unlinkat, AT_FDCWD, path, 0); }
int mkdir(const char *path, mode_t mode) { FAIL(fault("mkdir", path)); return syscall(SYS_mkdirat, AT_FDCWD, path, mode); }

int clock_gettime(clockid_t clock, struct timespec *t) {
    int result = syscall(SYS_clock_gettime, clock, t);
    if (clock_jump && clock == CLOCK_REALTIME && !result) {
        long call = atomic_fetch_add(&clock_calls, 1);
        t->tv_sec += call % 2 ? clock_jump : -clock_jump;
    }
    return result;
}
