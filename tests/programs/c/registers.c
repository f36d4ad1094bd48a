// Makes system calls with random register contents and looks at what they are afterwards: nothing but rax, rcx and r11 may change, and
// those as the processor says. Three places: one whose number is loaded right before, one with an instruction behind it that can
// stand elsewhere, and one that has neither.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <signal.h>
#include <unistd.h>

enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP, R8, R11 = 11, R15 = 15 };

struct state {
    uint64_t r[16];
    uint64_t flags;
    uint64_t red[16];
    uint32_t mxcsr;
    uint32_t pad;
    uint64_t k[8];
    uint64_t pad2[6];
    uint8_t vectors[32][64];
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct state, flags) == 128, "");
_Static_assert(offsetof(struct state, red) == 136, "");
_Static_assert(offsetof(struct state, mxcsr) == 264, "");
_Static_assert(offsetof(struct state, k) == 272, "");
_Static_assert(offsetof(struct state, vectors) == 384, "");

struct state in, out;
uint64_t saved_rsp;
uint32_t fresh_mxcsr = 0x1f80;

// 0: SSE, 1: AVX, 2: AVX-512
int level;

asm(".text\n"
    "load_vectors:\n"
    "cmpl $1, level(%rip)\n"
    "jl 1f\n"
    "je 2f\n"
    ".set i, 0\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "vmovdqu64 in+384+\\n*64(%rip), %zmm\\n\n"
    ".endr\n"
    ".irp n,0,1,2,3,4,5,6,7\n"
    "kmovq in+272+\\n*8(%rip), %k\\n\n"
    ".endr\n"
    "ret\n"
    "1:\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "movdqu in+384+\\n*64(%rip), %xmm\\n\n"
    ".endr\n"
    "ret\n"
    "2:\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "vmovdqu in+384+\\n*64(%rip), %ymm\\n\n"
    ".endr\n"
    "ret\n"
    "store_vectors:\n"
    "cmpl $1, level(%rip)\n"
    "jl 1f\n"
    "je 2f\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "vmovdqu64 %zmm\\n, out+384+\\n*64(%rip)\n"
    ".endr\n"
    ".irp n,0,1,2,3,4,5,6,7\n"
    "kmovq %k\\n, out+272+\\n*8(%rip)\n"
    ".endr\n"
    "vzeroupper\n"
    "ret\n"
    "1:\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "movdqu %xmm\\n, out+384+\\n*64(%rip)\n"
    ".endr\n"
    "ret\n"
    "2:\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "vmovdqu %ymm\\n, out+384+\\n*64(%rip)\n"
    ".endr\n"
    "vzeroupper\n"
    "ret\n"
    //
    ".macro around name, call:vararg\n"
    ".globl \\name\n"
    "\\name:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, saved_rsp(%rip)\n"
    "call load_vectors\n"
    "ldmxcsr in+264(%rip)\n"
    "pushq in+128(%rip)\n"
    "popfq\n"
    "mov in+56(%rip), %rsp\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "mov in+136+\\n*8(%rip), %rax\n"
    "mov %rax, -128+\\n*8(%rsp)\n"
    ".endr\n"
    "mov in(%rip), %rax\n mov in+8(%rip), %rbx\n mov in+16(%rip), %rcx\n mov in+24(%rip), %rdx\n"
    "mov in+32(%rip), %rsi\n mov in+40(%rip), %rdi\n mov in+48(%rip), %rbp\n"
    ".irp n,8,9,10,11,12,13,14,15\n"
    "mov in+\\n*8(%rip), %r\\n\n"
    ".endr\n"
    "\\call\n"
    ".globl behind_\\name\n"
    "behind_\\name:\n"
    "mov %rax, out(%rip)\n mov %rbx, out+8(%rip)\n mov %rcx, out+16(%rip)\n mov %rdx, out+24(%rip)\n"
    "mov %rsi, out+32(%rip)\n mov %rdi, out+40(%rip)\n mov %rbp, out+48(%rip)\n mov %rsp, out+56(%rip)\n"
    ".irp n,8,9,10,11,12,13,14,15\n"
    "mov %r\\n, out+\\n*8(%rip)\n"
    ".endr\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "mov -128+\\n*8(%rsp), %rax\n"
    "mov %rax, out+136+\\n*8(%rip)\n"
    ".endr\n"
    "mov saved_rsp(%rip), %rsp\n"
    "pushfq\n"
    "popq out+128(%rip)\n"
    "cld\n"
    "stmxcsr out+264(%rip)\n"
    "ldmxcsr fresh_mxcsr(%rip)\n"
    "call store_vectors\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
    "ret\n"
    ".endm\n"
    ".macro number\n mov $110, %eax\n syscall\n .endm\n"
    ".macro wide_number\n .byte 0x48, 0xc7, 0xc0, 110, 0, 0, 0\n syscall\n .endm\n"
    // The number is among the registers that were loaded.
    ".macro follower\n syscall\n mov %rax, %rdx\n .endm\n"
    ".macro nothing\n syscall\n nop\n .endm\n"
    "around by_number, number\n"
    "around by_wide_number, wide_number\n"
    "around by_follower, follower\n"
    "around by_trap, nothing\n");

void by_number(void), by_wide_number(void), by_follower(void), by_trap(void);
extern char behind_by_number[], behind_by_wide_number[], behind_by_trap[];

static uint64_t seed = 88172645463325252u;

static uint64_t number(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint8_t stack[65536];
static volatile int interruptions;

static void interrupted(int signo) {
    (void)signo;
    interruptions++;
}

static void check(int ok, const char *what, const char *place, int round) {
    if (!ok) {
        printf("%s, round %d: %s is not what it was\n", place, round, what);
        exit(1);
    }
}

static void test(const char *place, void (*call)(void), const char *behind, int numbered, int follower) {
    uint64_t parent = getppid();
    int sizes[] = {16, 32, 64}, counts[] = {16, 16, 32};
    for (int round = 0; round < 3000; round++) {
        for (int i = 0; i < 16; i++) in.r[i] = number();
        for (int i = 0; i < 16; i++) in.red[i] = number();
        for (int i = 0; i < 8; i++) in.k[i] = number();
        for (unsigned i = 0; i < sizeof in.vectors / 8; i++) memcpy(&in.vectors[0][i * 8], &(uint64_t){number()}, 8);
        // Any address, aligned or not.
        in.r[RSP] = (uint64_t)stack + 4096 + number() % 60000;
        if (!numbered) in.r[RAX] = 110;
        // Carry, parity, adjust, zero, sign, direction, overflow.
        in.flags = (number() & 0xcd5) | 0x202;
        in.mxcsr = (number() & 0xe03f) | 0x1f80;
        call();
        check(out.r[RAX] == parent, "rax", place, round);
        if (behind) check(out.r[RCX] == (uint64_t)behind, "rcx", place, round);
        check((out.r[R11] & 0xfd5) == (in.flags & 0xfd5), "r11", place, round);
        if (follower) check(out.r[RDX] == parent, "the instruction behind", place, round);
        else check(out.r[RDX] == in.r[RDX], "rdx", place, round);
        for (int i = 0; i < 16; i++)
            if (i != RAX && i != RCX && i != R11 && i != RDX) {
                if (out.r[i] != in.r[i]) printf("register %d: %lx, was %lx\n", i, out.r[i], in.r[i]);
                check(out.r[i] == in.r[i], "a register", place, round);
            }
        check((out.flags & 0xfd5) == (in.flags & 0xfd5), "flags", place, round);
        check(out.mxcsr == in.mxcsr, "mxcsr", place, round);
        check(!memcmp(out.red, in.red, sizeof in.red), "the red zone", place, round);
        for (int i = 0; i < counts[level]; i++)
            check(!memcmp(out.vectors[i], in.vectors[i], sizes[level]), "a vector register", place, round);
        if (level == 2) check(!memcmp(out.k, in.k, sizeof in.k), "a mask register", place, round);
    }
}

int main(int argc, char **argv) {
    (void)argv;
    if (__builtin_cpu_supports("avx512bw")) level = 2;
    else if (__builtin_cpu_supports("avx")) level = 1;
    if (argc > 1) {
        // Signals in between, on a stack of their own: the red zone belongs to who was interrupted.
        static uint8_t alternate[65536];
        sigaltstack(&(stack_t){.ss_sp = alternate, .ss_size = sizeof alternate}, 0);
        sigaction(SIGALRM, &(struct sigaction){.sa_handler = interrupted, .sa_flags = SA_ONSTACK | SA_RESTART}, 0);
        setitimer(ITIMER_REAL, &(struct itimerval){{0, 1000}, {0, 1000}}, 0);
    }
    for (int again = 0; again < (argc > 1 ? 20 : 1); again++) {
        test("number", by_number, behind_by_number, 1, 0);
        test("wide number", by_wide_number, behind_by_wide_number, 1, 0);
        test("follower", by_follower, 0, 0, 1);
        test("trap", by_trap, (const char *)((uintptr_t)behind_by_trap - 1), 0, 0);
    }
    if (argc > 1 && interruptions < 5) {
        printf("only %d signals\n", interruptions);
        return 1;
    }
    printf("SUCCESS level %d\n", level);
    return 0;
}
