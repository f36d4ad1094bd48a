// Ends by a fault or a signal, or handles one.
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile siginfo_t seen;

static void handler(int number, siginfo_t *info, void *context) {
    (void)context;
    seen = *info;
    siglongjmp(back, number);
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    if (!strcmp(what, "null")) return *(volatile int *)8;
    if (!strcmp(what, "abort")) abort();
    if (!strcmp(what, "term")) raise(SIGTERM);
    if (!strcmp(what, "divide")) { volatile int one = 1, zero = count - 2; return one / zero; }
    if (!strcmp(what, "handled")) {
        struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
        sigaltstack(&stack, NULL);
        sigaction(SIGSEGV, &action, NULL);
        char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (!sigsetjmp(back, 1)) page[5] = 1;
        if (seen.si_addr != page + 5 || seen.si_code != SEGV_ACCERR) return 1;
        if (!sigsetjmp(back, 1)) ((volatile char *)0)[7] = 1;
        if (seen.si_addr != (void *)7 || seen.si_code != SEGV_MAPERR) return 2;
        puts("SUCCESS");
    }
    return 0;
}
