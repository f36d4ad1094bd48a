/* Memory where pages come from a pool: what is given back can be had again, and is zeroes then. The argument: MiB to use at once. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define FAIL(what) (printf("%s: %s\n", what, strerror(errno)), exit(1))

static char *map(size_t size) {
    char *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        FAIL("mmap");
    return at;
}

static void fill(char *at, size_t size, int value) {
    for (size_t i = 0; i < size; i += 4096) {
        if (at[i] != 0)
            FAIL("a page that was somebody else's");
        memset(at + i, value, 4096);
    }
}

int main(int count, char **arguments) {
    size_t size = (size_t)atoi(arguments[1]) << 20;
    for (int round = 1; round <= 12; round++) {
        char *at = map(size);
        fill(at, size, round);
        if (round % 3 == 0) {
            if (madvise(at, size, MADV_DONTNEED))
                FAIL("madvise");
            fill(at, size, round);
        }
        if (round % 3 == 1) {
            at = mremap(at, size, 2 * size, MREMAP_MAYMOVE);
            if (at == MAP_FAILED || at[size - 1] != round || at[size] != 0)
                FAIL("mremap");
            munmap(at + size, size);
        }
        if (munmap(at, size))
            FAIL("munmap");
    }
    /* Far more than there is. */
    char *sparse = mmap(0, 1ul << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sparse == MAP_FAILED)
        FAIL("a reservation");
    for (size_t i = 0; i < 1ul << 40; i += 1ul << 35)
        sparse[i] = 1;
    printf("SUCCESS\n");
    if (count > 2)
        for (;;)
            fill(map(1 << 20), 1 << 20, 1);
    return 0;
}
