/* Reads a file again and again by one system call that Python does not know, until standard input ends.
 *
 * Each value proves itself: a number n, a colon, and n * 97 % 9000 letters x. Prints how often it has read, and before
 * that a line for each value that was not whole. No liburing and no libaio: the raw calls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOM (1 << 16)

static char *buffer;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int is_whole(const char *data, long size) {
    char *colon;
    long number = strtol(data, &colon, 10);
    if (size < 2 || *colon != ':' || colon + 1 + number * 97 % 9000 != data + size)
        return 0;
    for (colon++; colon < data + size; colon++)
        if (*colon != 'x')
            return 0;
    return 1;
}

static long by_pread(int fd) { return pread(fd, buffer, ROOM, 0); }

/* Into a file of another file system the kernel may not copy at all (EXDEV): then as cp(1) goes on. */
static long by_copy_file_range(int fd) {
    static int out = -1;
    if (out < 0 && (out = memfd_create("out", 0)) < 0)
        fail("memfd_create");
    off_t from = 0, to = 0;
    long got, whole = 0;
    if (ftruncate(out, 0) < 0)
        fail("ftruncate");
    while ((got = copy_file_range(fd, &from, out, &to, ROOM, 0)) > 0)
        whole += got;
    if (got < 0)
        return errno == EXDEV ? by_pread(fd) : -1;
    return pread(out, buffer, ROOM, 0) == whole ? whole : -1;
}

static long by_aio(int fd) {
    static aio_context_t context;
    struct iocb one, *all = &one;
    struct io_event event;
    if (context == 0 && syscall(SYS_io_setup, 4, &context) < 0)
        fail("io_setup");
    memset(&one, 0, sizeof one);
    one.aio_fildes = fd;
    one.aio_lio_opcode = IOCB_CMD_PREAD;
    one.aio_buf = (unsigned long)buffer;
    one.aio_nbytes = ROOM;
    if (syscall(SYS_io_submit, context, 1, &all) != 1 || syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
        return -1;
    errno = event.res < 0 ? -event.res : 0;
    return event.res;
}

static struct {
    int fd;
    unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} ring = {.fd = -1};

static void set_up_ring(void) {
    struct io_uring_params p;
    memset(&p, 0, sizeof p);
    if ((ring.fd = syscall(SYS_io_uring_setup, 4, &p)) < 0)
        fail("io_uring_setup");
    char *sq = mmap(NULL, p.sq_off.array + p.sq_entries * sizeof(unsigned), PROT_READ | PROT_WRITE, MAP_SHARED,
                    ring.fd, IORING_OFF_SQ_RING);
    char *cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE,
                    MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
    ring.sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
                     IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || ring.sqes == MAP_FAILED)
        fail("mmap");
    ring.sq_tail = (unsigned *)(sq + p.sq_off.tail);
    ring.sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
    ring.sq_array = (unsigned *)(sq + p.sq_off.array);
    ring.cq_head = (unsigned *)(cq + p.cq_off.head);
    ring.cq_tail = (unsigned *)(cq + p.cq_off.tail);
    ring.cq_mask = (unsigned *)(cq + p.cq_off.ring_mask);
    ring.cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

static long ask_ring(struct io_uring_sqe sqe) {
    if (ring.fd < 0)
        set_up_ring();
    unsigned tail = *ring.sq_tail, index = tail & *ring.sq_mask;
    ring.sqes[index] = sqe;
    ring.sq_array[index] = index;
    __atomic_store_n(ring.sq_tail, tail + 1, __ATOMIC_RELEASE);
    while (syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        if (errno != EINTR)
            fail("io_uring_enter");
    unsigned head = *ring.cq_head;
    while (__atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE) == head)
        ;
    long got = ring.cqes[head & *ring.cq_mask].res;
    __atomic_store_n(ring.cq_head, head + 1, __ATOMIC_RELEASE);
    errno = got < 0 ? -got : 0;
    return got;
}

static long by_uring(int fd) {
    return ask_ring((struct io_uring_sqe){
        .opcode = IORING_OP_READ, .fd = fd, .addr = (unsigned long)buffer, .len = ROOM});
}

static long by_uring_splice(int fd) {
    int ends[2];
    if (pipe(ends) < 0)
        fail("pipe");
    long got = ask_ring((struct io_uring_sqe){.opcode = IORING_OP_SPLICE, .fd = ends[1], .off = -1,
                                              .splice_fd_in = fd, .splice_off_in = 0, .len = ROOM});
    if (got > 0)
        got = read(ends[0], buffer, ROOM);
    close(ends[0]);
    close(ends[1]);
    return got;
}

static const struct {
    const char *name;
    long (*read)(int);
    int flags;
} ways[] = {
    {"copy_file_range", by_copy_file_range, 0},
    {"O_DIRECT", by_pread, O_DIRECT},
    {"AIO", by_aio, 0},
    {"AIO with O_DIRECT", by_aio, O_DIRECT},
    {"io_uring", by_uring, 0},
    {"io_uring with O_DIRECT", by_uring, O_DIRECT},
    {"splice by io_uring", by_uring_splice, 0},
};

int main(int argc, char **argv) {
    unsigned way = 0;
    while (argc == 3 && way < sizeof ways / sizeof *ways && strcmp(ways[way].name, argv[2]))
        way++;
    if (argc != 3 || way == sizeof ways / sizeof *ways) {
        fprintf(stderr, "usage: whole_bytes FILE WAY\n");
        return 2;
    }
    if (posix_memalign((void **)&buffer, 4096, ROOM + 1))
        fail("posix_memalign");
    struct pollfd end = {.fd = 0, .events = POLLIN};
    long reads = 0;
    for (; poll(&end, 1, 5) == 0; reads++) {
        int fd = open(argv[1], O_RDONLY | ways[way].flags);
        if (fd < 0) {
            printf("open: %s\n", strerror(errno));
            continue;
        }
        errno = 0;
        long size = ways[way].read(fd);
        if (size < 0)
            printf("error: %s\n", strerror(errno));
        else {
            buffer[size] = 0;
            if (!is_whole(buffer, size))
                printf("not whole: %ld bytes, %.12s\n", size, buffer);
        }
        close(fd);
    }
    printf("%ld reads\n", reads);
    return 0;
}
