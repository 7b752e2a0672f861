/* A 32-bit program without large-file support: what it cannot be told fails with EOVERFLOW. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

static int failed(const char *what, const char *path) {
    printf("%s %s: %s\n", what, path, strerror(errno));
    return 1;
}

int main(int argc, char **argv) {
    struct stat found;
    struct statfs space;
    struct dirent *line;
    long places[4096];
    int names = 0, problems = 0;
    DIR *folder = opendir(argv[1]);
    if (!folder) return failed("opendir", argv[1]);
    if (chdir(argv[1])) return failed("chdir", argv[1]);
    if (statfs(".", &space)) problems += failed("statfs", argv[1]);
    for (errno = 0; (line = readdir(folder)); errno = 0) {
        if (names < 4096) places[names] = telldir(folder);
        names++;
        if (lstat(line->d_name, &found)) problems += failed("lstat", line->d_name);
    }
    if (errno) problems += failed("readdir", argv[1]);
    if (names > 2) {
        seekdir(folder, places[1]);
        if (!readdir(folder)) problems += failed("readdir after seekdir", argv[1]);
    }
    closedir(folder);
    for (int number = 2; number < argc; number++) {
        char text[256];
        int fd = open(argv[number], O_RDONLY);
        if (fd < 0) { problems += failed("open", argv[number]); continue; }
        if (fstat(fd, &found)) problems += failed("fstat", argv[number]);
        long got = read(fd, text, sizeof text);
        if (got < 0 || (found.st_size && got != found.st_size)) problems += failed("read", argv[number]);
        close(fd);
    }
    printf("%d names\n", names);
    return problems ? 1 : 0;
}
