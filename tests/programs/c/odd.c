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
static sigjmp_buf j; static volatile int got, code; static volatile long trap, error; static volatile uintptr_t where, address;
static volatile int stepping, steps, wrong;
static void h(int s, siginfo_t *i, void *c) {
    greg_t *registers = ((ucontext_t *)c)->uc_mcontext.gregs;
    got = s; code = i->si_code; address = (uintptr_t)i->si_addr; where = registers[REG_RIP];
    trap = registers[REG_TRAPNO]; error = registers[REG_ERR];
    if (stepping) { steps++; wrong += s != SIGTRAP || code != TRAP_TRACE || address != where; return; }
    siglongjmp(j, 1);
}
#define TRY(what, ...) do { got = 0; if (!sigsetjmp(j, 1)) { __VA_ARGS__; } printf("%s: signal %d\n", what, got); fflush(stdout);} while (0)
// With all that the program is told.
#define TELL(what, ...) do { TRY(what, __VA_ARGS__); printf("  code %d, trap %ld, error %#lx, address %s\n", code, trap, error, address == where ? "of the instruction" : address ? "another" : "none"); fflush(stdout); } while (0)
int main(int count, char **arguments) {
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
    (void)arguments;
    if (count < 2) { puts("SUCCESS"); return 0; }
    TELL("ud2, told", asm volatile("ud2"));
    TELL("int3, told", asm volatile("int3"));
    TELL("int 3, long", asm volatile(".byte 0xcd, 3"));
    TELL("int1", asm volatile(".byte 0xf1"));
    TELL("hlt, told", asm volatile("hlt"));
    TELL("int 0x81", asm volatile("int $0x81"));
    TELL("misaligned", asm volatile("movaps 1(%%rsp), %%xmm0" ::: "xmm0"));
    TELL("noncanonical access", asm volatile("movabs $0x8000000000000000, %%rax; mov (%%rax), %%rax" ::: "rax"));
    TELL("bad segment", asm volatile("mov $0x1234, %%eax; mov %%eax, %%ss" ::: "rax"));
    TELL("divide, told", volatile int none = 0; volatile int one = 1; one = one / none);
    TELL("division that overflows", volatile int minus = -1; volatile int least = -2147483647 - 1; least = least / minus);
    TELL("x87", unsigned short w = 0x37f & ~4; asm volatile("fldcw %0; fld1; fldz; fdivrp; fwait" :: "m"(w)));
    asm volatile("fninit");
    TELL("simd, told", unsigned m = 0x1f80 & ~0x200; asm volatile("ldmxcsr %0; pxor %%xmm0, %%xmm0; cvtsi2ss %1, %%xmm1; divss %%xmm0, %%xmm1" :: "m"(m), "r"(1) : "xmm0", "xmm1"));
    unsigned masked = 0x1f80; asm volatile("ldmxcsr %0" :: "m"(masked));
    // Single steps through calls, which on Linux are one step each, before and after their place is patched.
    for (int again = 0; again < 3; again++) {
        stepping = 1; steps = wrong = 0;
        asm volatile("pushfq; orq $0x100, (%%rsp); popfq; nop; nop; mov $39, %%eax; syscall; nop; cld; mov $39, %%eax; syscall; nop; pushfq; andq $~0x100, (%%rsp); popfq; nop" ::: "rax", "rcx", "r11", "cc", "memory");
        stepping = 0;
        printf("%d steps, %d of them wrong\n", steps, wrong);
    }
    puts("SUCCESS"); return 0;
}
