// Shared memory and semaphores of System V: prints what the calls answer. Identifiers are numbered in the order in which they came.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

union semun { int val; struct semid_ds *buf; unsigned short *array; struct seminfo *info; };

static long ids[32];
static int id_count;

static void tell(const char *what, long answer) {
    if (answer == -1) printf("%s: %s\n", what, strerrorname_np(errno));
    else printf("%s: %ld\n", what, answer);
}

// The same for what gives an identifier.
static int made(const char *what, int id) {
    if (id == -1) { tell(what, -1); return -1; }
    int n = 0;
    while (n < id_count && ids[n] != id) n++;
    if (n == id_count) ids[id_count++] = id;
    printf("%s: id %d\n", what, n);
    return id;
}

static void stat_of(int id) {
    struct shmid_ds s;
    if (shmctl(id, IPC_STAT, &s)) { tell("  IPC_STAT", -1); return; }
    printf("  size %zu, mode %o, attached %lu, own pid %d, last %d, own uid %d and creator %d, atime %d dtime %d ctime %d\n", s.shm_segsz, s.shm_perm.mode,
           (unsigned long)s.shm_nattch, s.shm_cpid == getpid(), s.shm_lpid == getpid(), s.shm_perm.uid == geteuid(), s.shm_perm.cuid == geteuid(),
           s.shm_atime != 0, s.shm_dtime != 0, s.shm_ctime != 0);
}

static int set;
static volatile int waiter_answer, waiter_errno;

static void *waiter(void *argument) {
    struct sembuf one = {0, (short)(intptr_t)argument, 0};
    waiter_answer = semop(set, &one, 1);
    waiter_errno = errno;
    return NULL;
}

static void await(int command, int count) {
    for (int n = 0; n < 2000 && semctl(set, 0, command) != count; n++) usleep(1000);
    tell(command == GETNCNT ? "GETNCNT" : "GETZCNT", semctl(set, 0, command));
}

static void memory(key_t key) {
    made("shmget of nothing", shmget(key, 100, 0600));
    int id = made("shmget", shmget(key, 10000, IPC_CREAT | 0640));
    made("again", shmget(key, 10000, 0600));
    made("smaller", shmget(key, 1, 0));
    made("larger", shmget(key, 20000, 0));
    made("exclusive", shmget(key, 10000, IPC_CREAT | IPC_EXCL));
    made("private", shmget(IPC_PRIVATE, 0, 0600));
    stat_of(id);
    char *one = shmat(id, NULL, 0), *other = shmat(id, NULL, SHM_RDONLY);
    printf("attached: %d, apart: %d, aligned: %d\n", one != (void *)-1 && other != (void *)-1, one != other, ((uintptr_t)one & 4095) == 0);
    strcpy(one + 9000, "seen from both sides");
    printf("%s\n", other + 9000);
    stat_of(id);
    tell("writing to what was attached to read", mprotect(other, 4096, PROT_READ | PROT_WRITE));
    tell("shmat unaligned", (long)shmat(id, (void *)0x700000001001, 0));
    tell("shmat on something", (long)shmat(id, one, 0));
    printf("remap: %d\n", shmat(id, one, SHM_REMAP) == one);
    stat_of(id);
    char *round = shmat(id, (void *)0x600000123456, SHM_RND);
    printf("rounded: %d\n", round == (void *)0x600000123000);
    tell("shmdt of the middle", shmdt(one + 4096));
    tell("shmdt", shmdt(round));
    tell("shmdt again", shmdt(round));
    tell("munmap", munmap(other, 12288));
    stat_of(id);
    struct shmid_ds s;
    shmctl(id, IPC_STAT, &s);
    s.shm_perm.mode = 0600;
    tell("IPC_SET", shmctl(id, IPC_SET, &s));
    tell("SHM_LOCK", shmctl(id, SHM_LOCK, NULL));
    stat_of(id);
    tell("SHM_UNLOCK", shmctl(id, SHM_UNLOCK, NULL));
    tell("IPC_RMID", shmctl(id, IPC_RMID, NULL));
    stat_of(id);
    printf("%s\n", one + 9000);
    made("the key is free", shmget(key, 10000, 0));
    tell("the last shmdt", shmdt(one));
    stat_of(id);
    tell("shmctl of nothing", shmctl(id, IPC_RMID, NULL));
    tell("shmat of nothing", (long)shmat(id, NULL, 0));
    tell("unknown command", shmctl(id, 99, NULL));
    struct shminfo limits;
    shmctl(0, IPC_INFO, (void *)&limits);
    printf("limits: %lu %lu %lu\n", limits.shmmin, limits.shmmni, limits.shmseg);
    // Forgotten by munmap after it was removed.
    id = made("another", shmget(IPC_PRIVATE, 4096, 0600));
    one = shmat(id, NULL, 0);
    tell("IPC_RMID", shmctl(id, IPC_RMID, NULL));
    munmap(one, 4096);
    stat_of(id);
}

static void semaphores(key_t key) {
    id_count = 0;
    made("semget of nothing", semget(key, 1, 0600));
    made("semget of none", semget(key, 0, IPC_CREAT | 0600));
    made("semget of too many", semget(key, 100000, IPC_CREAT | 0600));
    set = made("semget", semget(key, 3, IPC_CREAT | 0600));
    made("of fewer", semget(key, 2, 0));
    made("of any", semget(key, 0, 0));
    made("of more", semget(key, 4, 0));
    made("exclusive", semget(key, 3, IPC_CREAT | IPC_EXCL));
    union semun u = {.val = 2};
    tell("SETVAL", semctl(set, 1, SETVAL, u));
    tell("GETVAL", semctl(set, 1, GETVAL));
    tell("GETVAL of none", semctl(set, 3, GETVAL));
    u.val = 40000;
    tell("SETVAL too great", semctl(set, 1, SETVAL, u));
    unsigned short values[3] = {5, 6, 7};
    u.array = values;
    tell("SETALL", semctl(set, 0, SETALL, u));
    memset(values, 0, sizeof values);
    tell("GETALL", semctl(set, 0, GETALL, u));
    printf("%d %d %d\n", values[0], values[1], values[2]);
    struct sembuf some[] = {{0, -5, 0}, {1, 1, SEM_UNDO}, {2, 0, IPC_NOWAIT}};
    tell("all or none", semop(set, some, 3));
    semctl(set, 0, GETALL, u);
    printf("%d %d %d\n", values[0], values[1], values[2]);
    tell("the first two", semop(set, some, 2));
    semctl(set, 0, GETALL, u);
    printf("%d %d %d\n", values[0], values[1], values[2]);
    tell("GETPID", semctl(set, 0, GETPID) == getpid());
    tell("GETPID of another", semctl(set, 2, GETPID) == getpid());
    struct sembuf none = {3, 1, 0}, great = {2, 32767, 0};
    tell("no such semaphore", semop(set, &none, 1));
    tell("too great", semop(set, &great, 1));
    tell("no operation", semop(set, some, 0));
    tell("too many operations", semop(set, some, 501));
    struct timespec soon = {0, 20000000}, wrong = {0, 2000000000};
    struct sembuf take = {0, -1, 0}, give = {0, 1, 0};
    tell("semtimedop", semtimedop(set, &take, 1, &soon));
    tell("semtimedop with a wrong time", semtimedop(set, &take, 1, &wrong));
    pthread_t thread;
    pthread_create(&thread, NULL, waiter, (void *)-2);
    await(GETNCNT, 1);
    tell("one is not enough", semop(set, &give, 1));
    tell("GETVAL", semctl(set, 0, GETVAL));
    tell("two are", semop(set, &give, 1));
    pthread_join(thread, NULL);
    tell("the waiter", waiter_answer);
    tell("GETVAL", semctl(set, 0, GETVAL));
    await(GETNCNT, 0);
    semop(set, &give, 1);
    pthread_create(&thread, NULL, waiter, (void *)0);
    await(GETZCNT, 1);
    tell("take the last", semop(set, &take, 1));
    pthread_join(thread, NULL);
    tell("the waiter", waiter_answer);
    struct semid_ds s;
    u.buf = &s;
    tell("IPC_STAT", semctl(set, 0, IPC_STAT, u));
    printf("%lu semaphores, mode %o, otime %d, ctime %d\n", (unsigned long)s.sem_nsems, s.sem_perm.mode, s.sem_otime != 0, s.sem_ctime != 0);
    struct seminfo info;
    u.info = &info;
    semctl(0, 0, IPC_INFO, u);
    printf("%d %d %d %d %d %d\n", info.semmni, info.semmns, info.semmsl, info.semopm, info.semvmx, info.semusz);
    pthread_create(&thread, NULL, waiter, (void *)-1);
    await(GETNCNT, 1);
    tell("IPC_RMID", semctl(set, 0, IPC_RMID));
    pthread_join(thread, NULL);
    errno = waiter_errno;
    tell("the waiter", waiter_answer);
    tell("semop of nothing", semop(set, &give, 1));
    tell("semctl of nothing", semctl(set, 0, GETVAL));
}

static void file(const char *path) {
    char text[256] = "";
    FILE *in = fopen(path, "r");
    if (in) { if (!fgets(text, sizeof text, in)) text[0] = 0; fclose(in); }
    printf("%s: %s", path, text);
}

int main(void) {
    key_t key = 0x4b110000 + (getpid() & 0xffff);
    memory(key);
    semaphores(key);
    file("/proc/sysvipc/shm");
    file("/proc/sysvipc/sem");
    file("/proc/sys/kernel/shmmni");
    file("/proc/sys/kernel/shmmax");
    file("/proc/sys/kernel/shmall");
    file("/proc/sys/kernel/sem");
    puts("SUCCESS");
    return 0;
}
