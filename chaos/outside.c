/* Counts what a process changes outside of itself, and lets faults happen there. Preloaded before libc (LD_PRELOAD).

   A step is a call that changes a file under one of the watched folders, or sends to another process over TCP: whatever
   library makes it, so that nobody has to keep a list of them. What is done several times in a row is one step. The other side (outside.py) shares a page of memory with
   the process: it arms the count, says at which step what happens, and may fill the disk, break name look-ups and move
   the clock at any time. With LAKEWARD_OUTSIDE_LOG, each step is written down there as a line "call what". */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x1a6e3a2dU

/* Keep in step with outside.py. */
struct control {
    uint32_t magic;
    _Atomic int32_t armed;      /* count steps */
    _Atomic int64_t steps;      /* made since armed */
    _Atomic int64_t fault_at;   /* the number of the step (from 0) at which `action` happens; -1: never */
    _Atomic int32_t action;     /* a signal for the process */
    _Atomic int32_t after;      /* the signal comes when the call has been made, not before */
    _Atomic int32_t full;       /* nothing more fits into the watched folders: ENOSPC */
    _Atomic int32_t no_names;   /* host names aren't found: EAI_AGAIN */
    _Atomic int64_t clock_ns;   /* the wall clock is so far ahead */
    char only[1024];            /* count only steps whose line has these pieces, between '#', in this order */
    char folders[2048];         /* absolute, one per line */
};

static struct control *control;
static int log_fd = -1;
static __thread int inside; /* our own calls aren't steps */

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("LAKEWARD_OUTSIDE");
    if (!path) return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (page == MAP_FAILED || ((struct control *)page)->magic != MAGIC) return;
    control = page;
    const char *log = getenv("LAKEWARD_OUTSIDE_LOG");
    if (log) log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }
#define REAL(type, name, ...)                            \
    static type (*original)(__VA_ARGS__);                \
    if (!original) original = (type(*)(__VA_ARGS__))real(#name)

static int watched(const char *path) {
    for (const char *folder = control->folders; *folder;) {
        const char *end = strchrnul(folder, '\n');
        size_t length = end - folder;
        if (length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length])) return 1;
        folder = *end ? end + 1 : end;
    }
    return 0;
}

/* Absolute, of a path that may be relative to a directory's descriptor. */
static const char *absolute(int directory, const char *path, char *buffer, size_t size) {
    if (path[0] == '/') return path;
    char link[64];
    if (directory == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, buffer, size - 1);
    if (length < 0) return path;
    snprintf(buffer + length, size - length, "/%s", path);
    return buffer;
}

/* Whether a line begins with the first piece of `only`, and has the others after it. */
static int counts(const char *line) {
    char pieces[sizeof control->only], *rest = pieces;
    if (!control->only[0]) return 1;
    strcpy(pieces, control->only);
    char *first = strsep(&rest, "#");
    if (strncmp(line, first, strlen(first))) return 0;
    line += strlen(first);
    for (char *piece; (piece = strsep(&rest, "#"));) {
        const char *found = strstr(line, piece);
        if (!found) return 0;
        line = found + strlen(piece);
    }
    return 1;
}

static char last[768];
static atomic_flag last_busy = ATOMIC_FLAG_INIT;

static int is_new(const char *line) {
    while (atomic_flag_test_and_set(&last_busy)) {}
    int new = strcmp(line, last) != 0;
    if (new) strcpy(last, line);
    atomic_flag_clear(&last_busy);
    return new;
}

/* Calls in a row that do the same are one step. Returns 1 if a signal is due after the call. */
static int step(const char *call, const char *what) {
    char line[768];
    int length = snprintf(line, sizeof line, "%s %s\n", call, what);
    if (length >= (int)sizeof line) {
        length = sizeof line - 1;
        line[length - 1] = '\n';
    }
    if (!counts(line) || !is_new(line)) return 0;
    int64_t number = atomic_fetch_add(&control->steps, 1);
    if (log_fd >= 0) syscall(SYS_write, log_fd, line, length);
    if (number != atomic_load(&control->fault_at)) return 0;
    if (atomic_load(&control->after)) return 1;
    syscall(SYS_kill, getpid(), atomic_load(&control->action));
    return 0;
}

static int on(void) { return control && !inside && (atomic_load(&control->armed) || atomic_load(&control->full)); }

static int of_path(const char *call, int directory, const char *path) {
    char buffer[4200];
    const char *whole = absolute(directory, path, buffer, sizeof buffer);
    return atomic_load(&control->armed) && watched(whole) ? step(call, whole) : 0;
}

/* The name of an API key (the fifth and sixth byte of a request, after its length). */
static const char *kafka_request(int key) {
    static const char *const names[] = {
        "Produce", "Fetch", "ListOffsets", "Metadata", [8] = "OffsetCommit", "OffsetFetch", "FindCoordinator",
        "JoinGroup", "Heartbeat", "LeaveGroup", "SyncGroup", "DescribeGroups", "ListGroups", "SaslHandshake",
        "ApiVersions", "CreateTopics", "DeleteTopics", "DeleteRecords", "InitProducerId", "OffsetForLeaderEpoch",
        "AddPartitionsToTxn", "AddOffsetsToTxn", "EndTxn", [32] = "DescribeConfigs",
    };
    return key < (int)(sizeof names / sizeof *names) ? names[key] : NULL;
}

/* Where a descriptor leads: a file under a watched folder, or a TCP peer with the first bytes of what is sent. */
static int described(int fd, const void *data, size_t size, char *what, size_t room, int *is_file) {
    struct stat about;
    if (fstat(fd, &about)) return 0;
    if (S_ISREG(about.st_mode)) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, what, room - 1);
        if (length < 0) return 0;
        what[length] = 0;
        *is_file = 1;
        return watched(what);
    }
    if (!S_ISSOCK(about.st_mode)) return 0;
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &length)) return 0;
    int port;
    if (peer.ss_family == AF_INET) port = ntohs(((struct sockaddr_in *)&peer)->sin_port);
    else if (peer.ss_family == AF_INET6) port = ntohs(((struct sockaddr_in6 *)&peer)->sin6_port);
    else return 0;
    *is_file = 0;
    int used = snprintf(what, room, ":%d ", port);
    const unsigned char *bytes = data;
    const char *request = size > 6 && !bytes[0] && !bytes[4] ? kafka_request(bytes[5]) : NULL;
    if (request) snprintf(what + used, room - used, "Kafka %s", request);
    else {
        size_t most = size < 160 ? size : 160, i = 0;
        for (; i < most && used < (int)room - 1 && bytes[i] >= ' ' && bytes[i] < 127; i++) what[used++] = bytes[i];
        what[used] = 0;
    }
    return 1;
}

/* -1: there is no room (errno is set); 1: a signal is due after the call. */
static int of_descriptor(const char *call, int fd, const void *data, size_t size, int grows) {
    char what[4200];
    int is_file = 0;
    int saved = errno;
    inside = 1;
    int concerns = described(fd, data, size, what, sizeof what, &is_file);
    inside = 0;
    errno = saved;
    if (!concerns) return 0;
    if (grows && is_file && atomic_load(&control->full)) {
        errno = ENOSPC;
        return -1;
    }
    return atomic_load(&control->armed) ? step(call, what) : 0;
}

static void due(int then) {
    if (then > 0) syscall(SYS_kill, getpid(), atomic_load(&control->action));
}

#define ON_PATH(name, directory, path, call)                         \
    int then = on() ? of_path(#name, directory, path) : 0;           \
    int result = call;                                               \
    due(then);                                                       \
    return result;

#define ON_DESCRIPTOR(type, name, fd, data, size, grows, call)              \
    int then = on() ? of_descriptor(#name, fd, data, size, grows) : 0;      \
    if (then < 0) return -1;                                                \
    type result = call;                                                     \
    due(then);                                                              \
    return result;

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    ON_DESCRIPTOR(ssize_t, write, fd, data, size, 1, original(fd, data, size))
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    ON_DESCRIPTOR(ssize_t, pwrite, fd, data, size, 1, original(fd, data, size, at))
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    ON_DESCRIPTOR(ssize_t, pwrite64, fd, data, size, 1, original(fd, data, size, at))
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    ON_DESCRIPTOR(ssize_t, writev, fd, count ? parts->iov_base : "", count ? parts->iov_len : 0, 1,
                  original(fd, parts, count))
}
ssize_t send(int fd, const void *data, size_t size, int flags) {
    REAL(ssize_t, send, int, const void *, size_t, int);
    ON_DESCRIPTOR(ssize_t, send, fd, data, size, 0, original(fd, data, size, flags))
}
ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    REAL(ssize_t, sendto, int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    ON_DESCRIPTOR(ssize_t, sendto, fd, data, size, 0, original(fd, data, size, flags, to, length))
}
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
    const struct iovec *first = message->msg_iovlen ? message->msg_iov : NULL;
    ON_DESCRIPTOR(ssize_t, sendmsg, fd, first ? first->iov_base : "", first ? first->iov_len : 0, 0,
                  original(fd, message, flags))
}
int ftruncate(int fd, off_t size) {
    REAL(int, ftruncate, int, off_t);
    ON_DESCRIPTOR(int, ftruncate, fd, "", 0, 0, original(fd, size))
}
int ftruncate64(int fd, off64_t size) {
    REAL(int, ftruncate64, int, off64_t);
    ON_DESCRIPTOR(int, ftruncate64, fd, "", 0, 0, original(fd, size))
}
int fallocate(int fd, int mode, off_t at, off_t size) {
    REAL(int, fallocate, int, int, off_t, off_t);
    ON_DESCRIPTOR(int, fallocate, fd, "", 0, 1, original(fd, mode, at, size))
}
int fallocate64(int fd, int mode, off64_t at, off64_t size) {
    REAL(int, fallocate64, int, int, off64_t, off64_t);
    ON_DESCRIPTOR(int, fallocate64, fd, "", 0, 1, original(fd, mode, at, size))
}
int fsync(int fd) {
    REAL(int, fsync, int);
    ON_DESCRIPTOR(int, fsync, fd, "", 0, 0, original(fd))
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    ON_DESCRIPTOR(int, fdatasync, fd, "", 0, 0, original(fd))
}

/* Opening is a step if it may make a file. */
static int of_open(int directory, const char *path, int flags) {
    return on() && (flags & O_CREAT) ? of_path("open", directory, path) : 0;
}
#define MODE                                     \
    mode_t mode = 0;                             \
    if (flags & (O_CREAT | O_TMPFILE)) {         \
        va_list rest;                            \
        va_start(rest, flags);                   \
        mode = va_arg(rest, mode_t);             \
        va_end(rest);                            \
    }
int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    MODE
    int then = of_open(AT_FDCWD, path, flags), result = original(path, flags, mode);
    due(then);
    return result;
}
int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    MODE
    int then = of_open(AT_FDCWD, path, flags), result = original(path, flags, mode);
    due(then);
    return result;
}
int openat(int directory, const char *path, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    MODE
    int then = of_open(directory, path, flags), result = original(directory, path, flags, mode);
    due(then);
    return result;
}
int openat64(int directory, const char *path, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    MODE
    int then = of_open(directory, path, flags), result = original(directory, path, flags, mode);
    due(then);
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    ON_PATH(rename, AT_FDCWD, to, original(from, to))
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    ON_PATH(rename, b, to, original(a, from, b, to))
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    ON_PATH(rename, b, to, original(a, from, b, to, flags))
}
int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    ON_PATH(link, AT_FDCWD, to, original(from, to))
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(int, linkat, int, const char *, int, const char *, int);
    ON_PATH(link, b, to, original(a, from, b, to, flags))
}
int unlink(const char *path) {
    REAL(int, unlink, const char *);
    ON_PATH(unlink, AT_FDCWD, path, original(path))
}
int unlinkat(int directory, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    ON_PATH(unlink, directory, path, original(directory, path, flags))
}

/* -- what may go wrong at any time */

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    REAL(int, getaddrinfo, const char *, const char *, const struct addrinfo *, struct addrinfo **);
    struct in6_addr number;
    int is_name = host && inet_pton(AF_INET, host, &number) != 1 && inet_pton(AF_INET6, host, &number) != 1;
    if (control && is_name && atomic_load(&control->no_names)) return EAI_AGAIN;
    return original(host, service, hints, found);
}

static void move(struct timespec *now) {
    int64_t ahead = control ? atomic_load(&control->clock_ns) : 0;
    int64_t total = now->tv_nsec + ahead % 1000000000;
    now->tv_sec += ahead / 1000000000 + (total >= 1000000000) - (total < 0);
    now->tv_nsec = (total + 1000000000) % 1000000000;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = original(which, now);
    if (!result && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) move(now);
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(int, gettimeofday, struct timeval *, void *);
    int result = original(now, zone);
    if (!result && now) {
        struct timespec exact = {now->tv_sec, now->tv_usec * 1000};
        move(&exact);
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return result;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
