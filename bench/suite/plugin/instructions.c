/*
 * A QEMU plugin (interface of version 1, QEMU 4.2 and later) that counts how often each instruction of a guest is
 * executed.
 *
 * The file that the argument out=PATH names becomes a table of ENTRIES pairs of 64-bit numbers, an address and its
 * count, in no order; unused pairs are zero. It can be read at any time. What an instruction costs is not counted, and
 * a halted processor executes none, so the figures are the same on every machine. One processor: counts are not atomic.
 *
 * Distributions do not package qemu-plugin.h; this is what is used of it.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info_t;

/* The only operation there is. */
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *instruction, enum qemu_plugin_op operation,
                                                void *number, uint64_t value);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* Many times the instructions of any guest here; a power of two. */
enum { BITS = 20, ENTRIES = 1 << BITS };

static struct entry {
    uint64_t address;
    uint64_t count;
} *table;

/* The entry of an address, by open addressing. Address 0 holds nothing that could be executed. */
static struct entry *entry_of(uint64_t address)
{
    uint64_t slot = (address * 0x9e3779b97f4a7c15u) >> (64 - BITS);

    while (table[slot].address != 0 && table[slot].address != address)
        slot = (slot + 1) % ENTRIES;
    table[slot].address = address;
    return &table[slot];
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    size_t n = qemu_plugin_tb_n_insns(block);

    (void)id;
    /* One by one: a block may be left in the middle. */
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        struct entry *entry = entry_of(qemu_plugin_insn_vaddr(instruction));

        qemu_plugin_register_vcpu_insn_exec_inline(instruction, QEMU_PLUGIN_INLINE_ADD_U64, &entry->count, 1);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
                                                               int argc, char **argv)
{
    static const char out[] = "out=";
    int file;

    (void)info;
    if (argc != 1 || strncmp(argv[0], out, sizeof out - 1) != 0) {
        fprintf(stderr, "instructions: out=PATH is missing\n");
        return -1;
    }
    file = open(argv[0] + sizeof out - 1, O_RDWR | O_CLOEXEC);
    if (file < 0 || ftruncate(file, ENTRIES * sizeof *table) != 0) {
        perror(argv[0]);
        return -1;
    }
    table = mmap(NULL, ENTRIES * sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (table == MAP_FAILED) {
        perror("instructions: mmap");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
