// Ways to call the kernel that are not `syscall`: each as on x86-64 Linux without calls of 32-bit programs.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int number, code, trap, error;
static volatile uintptr_t place, address;

static void handler(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    number = signal, code = info->si_code, address = (uintptr_t)info->si_addr;
    place = registers[REG_RIP], trap = registers[REG_TRAPNO], error = registers[REG_ERR];
    siglongjmp(back, 1);
}

int main(void) {
    static char stack[65536];
    sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int all[] = {SIGSEGV, SIGILL, SIGBUS, SIGTRAP, SIGSYS, SIGFPE};
    for (int n = 0; n < 6; n++) sigaction(all[n], &action, NULL);

    extern char narrow_call[];
    for (int again = 0; again < 3; again++) {
        if (!sigsetjmp(back, 1)) asm volatile("mov $20, %%eax\nnarrow_call%=: .globl narrow_call\nnarrow_call = narrow_call%=\nint $0x80" ::: "rax", "memory");
        if (number != SIGSEGV || code != SI_KERNEL || address || trap != 13 || error != 0x402 || place != (uintptr_t)narrow_call) {
            printf("int 0x80: signal %d, code %d, trap %d, error %#x, address %#lx, %ld bytes off\n", number, code, trap, error, (long)address, (long)(place - (uintptr_t)narrow_call));
            return 1;
        }
        number = 0;
    }
    if (!sigsetjmp(back, 1)) asm volatile("mov $20, %%eax; mov %%rsp, %%rbp; sysenter" ::: "rax", "memory");
    if (number != SIGSEGV && number != SIGILL) return 2;

    long result;
    asm volatile("syscall" : "=a"(result) : "a"(0x40000000 + 39) : "rcx", "r11", "memory");
    if (result != -38) return 3;
    // An alignment check that is on when a call or a fault comes must not be the library OS's trouble.
    if (!sigsetjmp(back, 1))
        asm volatile("pushfq; orq $0x40000, (%%rsp); popfq; mov $39, %%eax; syscall; ud2" ::: "rax", "rcx", "r11", "memory", "cc");
    asm volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "memory", "cc");
    if (number != SIGILL) return 4;

    time_t (*old_time)(time_t *) = (void *)0xffffffffff600400;
    int (*old_gettimeofday)(struct timeval *, void *) = (void *)0xffffffffff600000;
    long (*old_getcpu)(unsigned *, unsigned *, void *) = (void *)0xffffffffff600800;
    struct timeval now = {0};
    unsigned cpu = 99999;
    number = 0;
    if (!sigsetjmp(back, 1)) {
        time_t seconds = old_time(NULL);
        if (labs(seconds - time(NULL)) > 1) return 5;
        if (old_gettimeofday(&now, NULL) || labs(now.tv_sec - seconds) > 1) return 6;
        if (old_getcpu(&cpu, NULL, NULL) || cpu > 4096) return 7;
    }
    if (number) return 8;
    puts("SUCCESS");
    return 0;
}
