// Instructions that fail, each with the signal that it brings: the output is the same as on Linux.
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <signal.h>
#include <setjmp.h>
#include <unistd.h>
#include <stdint.h>
#include <ucontext.h>
static sigjmp_buf j; static volatile int got; static volatile uintptr_t where;
static void h(int s, siginfo_t *i, void *c) { got = s; where = ((ucontext_t *)c)->uc_mcontext.gregs[REG_RIP]; siglongjmp(j, 1); }
#define TRY(what, code) do { got = 0; if (!sigsetjmp(j, 1)) { code; } printf("%s: signal %d\n", what, got); fflush(stdout);} while (0)
int main(void) {
    static char alt[65536]; sigaltstack(&(stack_t){.ss_sp = alt, .ss_size = sizeof alt}, 0);
    struct sigaction a = {.sa_sigaction = h, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    int all[] = {SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS, SIGSYS}; for (int i = 0; i < 6; i++) sigaction(all[i], &a, 0);
    TRY("null call", ((void (*)(void))0)());
    TRY("noncanonical jump", asm volatile("movabs $0x8000000000000000, %%rax; jmp *%%rax" ::: "rax"));
    TRY("library OS jump", ((void (*)(void))0x7f0000001000)());
    TRY("ud2", asm volatile("ud2"));
    TRY("int3", asm volatile("int3"));
    TRY("hlt", asm volatile("hlt"));
    TRY("in", asm volatile("in $0x10, %%al" ::: "rax"));
    TRY("bad rsp call", asm volatile("mov %%rsp, %%r12; mov $0x1234, %%esp; mov $39, %%eax; syscall; mov %%r12, %%rsp" ::: "rax", "rcx", "r11", "r12"));
    TRY("push on bad rsp", asm volatile("mov $8, %%esp; push %%rax" ::: "rax"));
    TRY("single step", asm volatile("pushfq; orq $0x100, (%%rsp); popfq; nop" ::: "cc"));
    TRY("divide", volatile int z = 0; z = 1 / z);
    TRY("simd exception", unsigned m = 0x1f80 & ~0x200; asm volatile("ldmxcsr %0; pxor %%xmm0, %%xmm0; pcmpeqd %%xmm1,%%xmm1; cvtsi2ss %1, %%xmm1; divss %%xmm0, %%xmm1" :: "m"(m), "r"(1) : "xmm0", "xmm1"));
    TRY("read from library OS address", write(1, (void *)0x3100000000, 1));
    TRY("write with wrapping buffer", write(1, (void *)-10, 100));
    TRY("sigreturn to nowhere", ucontext_t u; (void)u; asm volatile("mov $15, %%eax; mov $0, %%esp; syscall" ::: "rax"));
    puts("SUCCESS"); return 0;
}
