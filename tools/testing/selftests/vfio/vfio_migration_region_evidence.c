// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whose fault is it that a guest went wrong?
 *
 * The processor on which KVM runs it may be an emulated one, and that one may
 * forget the registers which VMRUN and #VMEXIT load and store.  Then memory is
 * as the guest has left it, the registers that KVM itself saves and restores
 * are as well, and one of those that the processor keeps has a value which the
 * guest cannot give it.
 *
 * A migration, DMA or a lost page leaves no such trace: it can change memory,
 * and what the guest makes of that, but neither a control register nor the
 * lowest bits of the stack pointer.  So the processor is at fault only if all
 * three hold.  Anything else counts as a fault of what is under test.
 */

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vfio_migration_region_evidence.h"
#include "vfio_migration_region_guest.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#define CR0_PG		0x80000000ULL

/* No call in the guest goes deeper. */
#define STACK_SIZE	512

/* Words of a slot that may be on the stack: registers of an exception */
#define STACK_WORDS	4

/* Where a PC has devices and ROMs */
#define HOLE		0xa0000
#define HOLE_END	0x100000

/* What can be stray in memory is from these many rounds. */
#define STRAY_ROUNDS	(GUEST_SLOTS + 2)

#define WORDS		(GUEST_BLOCK / 4)

static unsigned int word(const struct evidence *e, unsigned int at)
{
	unsigned int value;

	memcpy(&value, e->ram + at, sizeof(value));

	return value;
}

static bool zero(const struct evidence *e, unsigned int at, unsigned int end)
{
	for (; at < end; at += 4)
		if (word(e, at))
			return false;

	return true;
}

/* How many words there are of those that guest and device write to slots */
static unsigned int stray(const struct evidence *e, unsigned int at,
			  unsigned int end)
{
	unsigned int n = 0, value, round, i;

	for (; at < end; at += 4) {
		value = word(e, at);
		if (!value)
			continue;
		for (i = 0; i < STRAY_ROUNDS; i++) {
			round = e->round + 1 - i;
			if (round > e->round + 1)	/* before the first one */
				break;
			n += value - GUEST_WORD(RAM, round, 0) < WORDS;
			n += value - GUEST_WORD(SCRATCH, round, 0) < WORDS;
		}
	}

	return n;
}

/* What round @round has written to word @i; nothing before the first round */
static unsigned int expected(enum guest_use use, unsigned int round,
			     unsigned int i)
{
	return (int)round > 0 ? GUEST_WORD(use, round, i) : 0;
}

/*
 * The slots of the last rounds.  That of the next one may hold its words, or
 * still those of the round whose slot it was, or the one up to a word and the
 * other from there on.
 */
static bool slots_right(const struct evidence *e, enum guest_use memory,
			enum guest_use from)
{
	unsigned int next = e->round + 1, round, at, i;

	for (round = next - GUEST_SLOTS + 1; round != next; round++) {
		if ((int)round <= 0)
			continue;
		at = GUEST_SLOT(memory, round);
		for (i = 0; i < WORDS; i++)
			if (word(e, at + 4 * i) != GUEST_WORD(from, round, i))
				return false;
		if (!zero(e, at + GUEST_BLOCK, at + GUEST_PAGE))
			return false;
	}
	at = GUEST_SLOT(memory, next);
	for (i = 0; i < WORDS; i++)
		if (word(e, at + 4 * i) != GUEST_WORD(from, next, i))
			break;
	for (; i < WORDS; i++)
		if (word(e, at + 4 * i) != expected(from, next - GUEST_SLOTS, i))
			return false;

	return zero(e, at + GUEST_BLOCK, at + GUEST_PAGE);
}

static bool idt_right(const struct guest_data *data,
		      const struct guest_rom_table *table)
{
	const struct guest_gate *g;
	unsigned int i, handler;

	for (i = 0; i < ARRAY_SIZE(data->idt); i++) {
		g = &data->idt[i];
		handler = g->high << 16 | g->low;
		if (i < GUEST_EXCEPTIONS || i == GUEST_VECTOR) {
			if (handler != (i == GUEST_VECTOR ? table->on_msi :
					table->on_exception) ||
			    g->selector != GUEST_SELECTOR ||
			    g->type != GUEST_GATE)
				return false;
		} else if (handler || g->selector || g->type) {
			return false;
		}
	}

	return true;
}

/*
 * What is not as the guest has left it in memory, or NULL.  After a reset the
 * processor may write to the first segment of real mode, but what it cannot
 * write there are words of slots.
 */
const char *evidence_against_memory(const struct evidence *e)
{
	const unsigned int slots = GUEST_MEMORY + SCRATCH * GUEST_SLOTS * GUEST_PAGE;
	struct guest_rom_table table;
	struct guest_data data;

	if (memcmp(e->rom, guest_rom, GUEST_ROM_SIZE))
		return "the ROM";
	memcpy(&table, e->rom + GUEST_ROM_TABLE, sizeof(table));
	memcpy(&data, e->ram + GUEST_DATA, sizeof(data));

	if (!idt_right(&data, &table))
		return "the IDT";
	if (data.copies - 4 * e->round > 4 || data.interrupts < data.copies ||
	    !data.device || !data.regs || !data.scratch || !data.scratch_size)
		return "its data";
	if (!slots_right(e, RAM, RAM))
		return "a slot that the processor writes";
	if (!slots_right(e, FROM_PIN, SCRATCH))
		return "a slot for DMA by vfio_pin_pages";
	if (!slots_right(e, FROM_RW, SCRATCH))
		return "a slot for DMA by vfio_dma_rw";
	if (word(e, GUEST_STACK - 4) != table.after_main ||
	    stray(e, GUEST_STACK - STACK_SIZE, GUEST_STACK) > STACK_WORDS)
		return "the stack";
	if (stray(e, 0, GUEST_DATA) ||
	    !zero(e, GUEST_DATA + sizeof(data), GUEST_STACK - STACK_SIZE) ||
	    !zero(e, GUEST_STACK, HOLE) ||
	    !zero(e, HOLE_END, GUEST_MEMORY) ||
	    !zero(e, slots, data.iommu ? GUEST_TABLES : EVIDENCE_RAM_SIZE) ||
	    stray(e, GUEST_TABLES, EVIDENCE_RAM_SIZE))
		return "memory that it does not use";

	return NULL;
}

/* A register that the guest cannot have given its value, or NULL */
const char *evidence_against_processor(const struct evidence *e)
{
	if (e->cr0 & CR0_PG)
		return "paging is on";
	if (e->cr2)
		return "CR2 is not 0";
	if (e->cr3)
		return "CR3 is not 0";
	if (e->sp % 4)
		return "ESP is not a multiple of 4";
	if (e->sp > GUEST_STACK || e->sp < GUEST_STACK - STACK_SIZE)
		return "ESP is not in the stack";
	if (e->ip < GUEST_ROM_START || e->ip >= 1ULL << 32)
		return "EIP is not in the ROM";

	return NULL;
}

/*
 * NULL if it was the processor's fault that the guest went wrong, or else the
 * first thing that does not fit that.
 */
const char *evidence_is_ours(const struct evidence *e)
{
	const char *what = evidence_against_memory(e);

	if (what)
		return what;
	if (e->bp != GUEST_MARK(e->round) && e->bp != GUEST_MARK(e->round + 1))
		return "EBP is not of the round";
	if (!evidence_against_processor(e))
		return "the registers are possible ones";

	return NULL;
}

/* The register @name in what QEMU prints, where the next is after a blank */
static bool number(const char *text, const char *name, unsigned long long *value)
{
	size_t len = strlen(name);
	const char *at = text;

	while ((at = strstr(at, name))) {
		if ((at == text || !strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZ", at[-1])) &&
		    at[len] == '=')
			return sscanf(at + len + 1, "%llx", value) == 1;
		at += len;
	}

	return false;
}

/* Take them from what "info registers" prints.  False if one is not there. */
bool evidence_registers(struct evidence *e, const char *text)
{
	return (number(text, "EIP", &e->ip) || number(text, "RIP", &e->ip)) &&
		(number(text, "ESP", &e->sp) || number(text, "RSP", &e->sp)) &&
		(number(text, "EBP", &e->bp) || number(text, "RBP", &e->bp)) &&
		number(text, "CR0", &e->cr0) && number(text, "CR2", &e->cr2) &&
		number(text, "CR3", &e->cr3);
}

/*
 * Made-up evidence: of a processor's fault in full, and then with one thing
 * that is off.
 */
#define MADE_ROUND	20
#define MADE_IP		(GUEST_ROM_START + 0x123)
#define MADE_SP		(GUEST_STACK - 0x40)

struct made {
	struct evidence e;
	unsigned char *rom;
	unsigned char *ram;
};

static void put(struct made *m, unsigned int at, unsigned int value)
{
	memcpy(m->ram + at, &value, sizeof(value));
}

static void made_slots(struct made *m, enum guest_use memory, enum guest_use from)
{
	unsigned int round, i;

	for (round = MADE_ROUND - GUEST_SLOTS + 1; round <= MADE_ROUND; round++)
		for (i = 0; i < WORDS; i++)
			put(m, GUEST_SLOT(memory, round) + 4 * i,
			    GUEST_WORD(from, round, i));
}

static void made_evidence(struct made *m)
{
	struct guest_data data = {
		.interrupts = 4 * MADE_ROUND + 2,
		.copies = 4 * MADE_ROUND + 2,
		.device = 0x80001000,
		.regs = 0xe0000000,
		.scratch = 0xe0100000,
		.scratch_size = 0x100000,
	};
	struct guest_rom_table table;
	unsigned int i, handler;

	memcpy(m->rom, guest_rom, GUEST_ROM_SIZE);
	memset(m->ram, 0, EVIDENCE_RAM_SIZE);
	memcpy(&table, m->rom + GUEST_ROM_TABLE, sizeof(table));
	for (i = 0; i <= GUEST_VECTOR; i++) {
		if (i >= GUEST_EXCEPTIONS && i != GUEST_VECTOR)
			continue;
		handler = i == GUEST_VECTOR ? table.on_msi : table.on_exception;
		data.idt[i] = (struct guest_gate){
			.low = handler,
			.selector = GUEST_SELECTOR,
			.type = GUEST_GATE,
			.high = handler >> 16,
		};
	}
	memcpy(m->ram + GUEST_DATA, &data, sizeof(data));
	made_slots(m, RAM, RAM);
	made_slots(m, FROM_PIN, SCRATCH);
	made_slots(m, FROM_RW, SCRATCH);
	put(m, GUEST_STACK - 4, table.after_main);
	m->e = (struct evidence){
		.round = MADE_ROUND,
		.rom = m->rom,
		.ram = m->ram,
		.ip = MADE_IP,
		.sp = MADE_SP - 5,
		.bp = GUEST_MARK(MADE_ROUND),
		.cr0 = 0x11,
	};
}

/*
 * Words of memory, from that @at on, changed by @flip, one more for each that
 * follows
 */
struct poke {
	const char *name;
	unsigned int at;
	unsigned int flip;
	unsigned int words;
	bool processor;		/* it is at fault all the same */
};

#define DATA(member) (GUEST_DATA + offsetof(struct guest_data, member))
#define NEXT		(MADE_ROUND + 1)

static const struct poke pokes[] = {
	{ "nothing", 0, 0, 0, true },
	{ "gate of an exception", DATA(idt[14]), 1, 1 },
	{ "type of the last exception's gate", DATA(idt[31].type), 0x100, 1 },
	{ "segment of a gate", DATA(idt[3].selector), 8, 1 },
	{ "gate of no interrupt", DATA(idt[0x30]), 1, 1 },
	{ "gate of the device's interrupt", DATA(idt[GUEST_VECTOR]), 0x10, 1 },
	{ "too many copies", DATA(copies), 1 << 8, 1 },
	{ "copy without an interrupt", DATA(interrupts), 2, 1 },
	{ "device", DATA(device), 0x80001000, 1 },
	{ "its registers", DATA(regs), 0xe0000000, 1 },
	{ "its memory", DATA(scratch), 0xe0100000, 1 },
	{ "size of its memory", DATA(scratch_size), 0x100000, 1 },
	{ "oldest slot", GUEST_SLOT(RAM, NEXT + 1), 1, 1 },
	{ "newest slot", GUEST_SLOT(RAM, MADE_ROUND), 0x80000000, 1 },
	{ "last word of a slot", GUEST_SLOT(RAM, 12) + GUEST_BLOCK - 4, 1, 1 },
	{ "rest of a slot's page", GUEST_SLOT(RAM, 12) + GUEST_PAGE - 4, 1, 1 },
	{ "slot of vfio_pin_pages", GUEST_SLOT(FROM_PIN, 12), 1, 1 },
	{ "slot of vfio_dma_rw", GUEST_SLOT(FROM_RW, MADE_ROUND) + 256, 1, 1 },
	{ "slot of another use", GUEST_SLOT(RAM, 12),
	  GUEST_WORD(RAM, 12, 0) ^ GUEST_WORD(SCRATCH, 12, 0), 1 },
	{ "slot that was not written", GUEST_SLOT(RAM, MADE_ROUND),
	  GUEST_WORD(RAM, MADE_ROUND, 0) ^
	  GUEST_WORD(RAM, MADE_ROUND - GUEST_SLOTS, 0), 1 },
	{ "slot in use", GUEST_SLOT(RAM, NEXT) + 64, 1, 1 },
	{ "slot in use, its last word", GUEST_SLOT(RAM, NEXT) + GUEST_BLOCK - 4, 1, 1 },
	{ "rest of that page", GUEST_SLOT(FROM_PIN, NEXT) + GUEST_BLOCK, 1, 1 },
	{ "slot that has begun", GUEST_SLOT(RAM, NEXT),
	  GUEST_WORD(RAM, NEXT, 0) ^ GUEST_WORD(RAM, NEXT - GUEST_SLOTS, 0), 1, true },
	{ "where main returns to", GUEST_STACK - 4, 1, 1 },
	{ "words of a slot on the stack", GUEST_STACK - 256,
	  GUEST_WORD(SCRATCH, MADE_ROUND, 0), STACK_WORDS + 1 },
	{ "as many as an exception saves", GUEST_STACK - 256,
	  GUEST_WORD(SCRATCH, MADE_ROUND, 0), STACK_WORDS, true },
	{ "other words on the stack", GUEST_STACK - STACK_SIZE, 0x12345678, 8, true },
	{ "below the stack", GUEST_STACK - STACK_SIZE - 4, 1, 1 },
	{ "above the stack", GUEST_STACK, 1, 1 },
	{ "behind its data", GUEST_DATA + sizeof(struct guest_data), 1, 1 },
	{ "below the hole", HOLE - 4, 1, 1 },
	{ "in the hole", HOLE, 1, 1, true },
	{ "behind the slots", GUEST_SLOT(SCRATCH, 0), 1, 1 },
	{ "table of an IOMMU that is not there", GUEST_TABLES, 0x12345001, 1 },
	{ "end of memory", EVIDENCE_RAM_SIZE - 4, 1, 1 },
	{ "low memory", 0x400, 0x12345678, 16, true },
	{ "word of the last round in low memory", 0x400,
	  GUEST_WORD(RAM, MADE_ROUND, WORDS - 1), 1 },
	{ "word of the next round there", GUEST_DATA - 4,
	  GUEST_WORD(SCRATCH, NEXT, 0), 1 },
	{ "word of an old round there", 0,
	  GUEST_WORD(SCRATCH, NEXT - GUEST_SLOTS, 7), 1 },
};

static const struct {
	const char *name;
	unsigned long long ip, sp, bp, cr0, cr2, cr3;
	bool processor;
} registers[] = {
	{ "all possible",
	  MADE_IP, MADE_SP, GUEST_MARK(MADE_ROUND), 0x11 },
	{ "all possible at the start",
	  GUEST_ROM_START, GUEST_STACK, GUEST_MARK(MADE_ROUND), 0x11 },
	{ "CR3",
	  MADE_IP, MADE_SP, GUEST_MARK(MADE_ROUND), 0x11, 0, 0x1234000, true },
	{ "CR2",
	  MADE_IP, MADE_SP, GUEST_MARK(MADE_ROUND), 0x11, 0x7f0012345678, 0, true },
	{ "paging",
	  MADE_IP, MADE_SP, GUEST_MARK(MADE_ROUND), 0x80000011, 0, 0, true },
	{ "paging in the next round",
	  MADE_IP, MADE_SP, GUEST_MARK(NEXT), 0x80000011, 0, 0, true },
	{ "paging, EBP of the round before",
	  MADE_IP, MADE_SP, GUEST_MARK(MADE_ROUND - 1), 0x80000011 },
	{ "paging, EBP of a later round",
	  MADE_IP, MADE_SP, GUEST_MARK(NEXT + 1), 0x80000011 },
	{ "CR3, EBP of no round",
	  GUEST_ROM_START, GUEST_STACK, 0, 0x11, 0, 0x1000 },
	{ "odd stack",
	  GUEST_ROM_START, GUEST_STACK - 0x42, GUEST_MARK(MADE_ROUND), 0x11, 0, 0, true },
	{ "odd stack, EBP of no round",
	  GUEST_ROM_START, GUEST_STACK - 0x42, GUEST_MARK(MADE_ROUND) + 1, 0x11 },
	{ "stack too high",
	  GUEST_ROM_START, GUEST_STACK + 4, GUEST_MARK(MADE_ROUND), 0x11, 0, 0, true },
	{ "stack too low",
	  GUEST_ROM_START, GUEST_STACK - STACK_SIZE - 4, GUEST_MARK(MADE_ROUND), 0x11, 0, 0, true },
	{ "a kernel's stack",
	  GUEST_ROM_START, 0xffffc90000012340, GUEST_MARK(MADE_ROUND), 0x11, 0, 0, true },
	{ "below the ROM",
	  GUEST_ROM_START - 1, GUEST_STACK, GUEST_MARK(MADE_ROUND), 0x11, 0, 0, true },
	{ "where a reset begins",
	  0xfff0, GUEST_STACK, GUEST_MARK(MADE_ROUND), 0x11, 0, 0, true },
	{ "a kernel's code",
	  0xffffffff81000000, GUEST_STACK, GUEST_MARK(MADE_ROUND), 0x11, 0, 0, true },
};

/* As QEMU prints registers: of a 32-bit guest, of a 64-bit one */
static const char * const texts[] = {
	"\r\nCPU#0\r\nEAX=00000001 EBX=00000002 ECX=00000003 EDX=00000004\r\n"
	"ESI=00000005 EDI=00000006 EBP=00000a01 ESP=0007ffbc\r\n"
	"EIP=ffff031f EFL=00000206 [-----P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\r\n"
	"CR0=00000011 CR2=00000b02 CR3=00000c03 CR4=00000000\r\n",
	"RAX=0000000000000001 RBX=0000000000000002 RCX=0 RDX=0\r\n"
	"RSI=0000000000000005 RDI=0 RBP=0000000000000a01 RSP=000000000007ffbc\r\n"
	"R8 =0 R9 =0\r\n"
	"RIP=00000000ffff031f RFL=00000206 [-----P-] CPL=0 II=0\r\n"
	"CR0=00000011 CR2=0000000000000b02 CR3=0000000000000c03 CR4=0\r\n",
};

static bool text_mistaken(const char *text)
{
	struct evidence e = {};
	char part[1024];

	if (!evidence_registers(&e, text) || e.ip != 0xffff031f ||
	    e.sp != 0x7ffbc || e.bp != 0xa01 || e.cr0 != 0x11 ||
	    e.cr2 != 0xb02 || e.cr3 != 0xc03)
		return true;
	snprintf(part, sizeof(part), "%.*s", (int)(strstr(text, "CR3") - text),
		 text);

	return evidence_registers(&e, part);
}

/* The first made-up piece of evidence that is taken for the wrong fault */
static const char *made_mistaken(struct made *m)
{
	unsigned int i, j, value;

	for (i = 0; i < ARRAY_SIZE(pokes); i++) {
		made_evidence(m);
		for (j = 0; j < pokes[i].words; j++) {
			value = word(&m->e, pokes[i].at + 4 * j);
			put(m, pokes[i].at + 4 * j, value ^ (pokes[i].flip + j));
		}
		if (!evidence_is_ours(&m->e) != pokes[i].processor)
			return pokes[i].name;
	}
	made_evidence(m);
	for (i = 0; i < ARRAY_SIZE(registers); i++) {
		m->e.ip = registers[i].ip;
		m->e.sp = registers[i].sp;
		m->e.bp = registers[i].bp;
		m->e.cr0 = registers[i].cr0;
		m->e.cr2 = registers[i].cr2;
		m->e.cr3 = registers[i].cr3;
		if (!evidence_is_ours(&m->e) != registers[i].processor)
			return registers[i].name;
	}
	made_evidence(m);
	m->e.round--;
	if (!evidence_is_ours(&m->e))
		return "a round too late";
	m->e.round += 2;
	if (!evidence_is_ours(&m->e))
		return "a round too early";
	made_evidence(m);
	m->rom[GUEST_ROM_SIZE / 2] ^= 1;
	if (!evidence_is_ours(&m->e))
		return "the ROM";
	made_evidence(m);
	put(m, DATA(iommu), 1);
	put(m, GUEST_TABLES, 0x12345001);
	if (evidence_is_ours(&m->e))
		return "a table of the IOMMU";
	put(m, GUEST_TABLES, GUEST_WORD(RAM, MADE_ROUND, 0));
	if (!evidence_is_ours(&m->e))
		return "a word of a slot in such a table";
	for (i = 0; i < ARRAY_SIZE(texts); i++)
		if (text_mistaken(texts[i]))
			return texts[i];

	return NULL;
}

/*
 * What of the made-up evidence is taken for the wrong fault, or NULL.  A test
 * that asks for evidence asks this first.
 */
const char *evidence_mistaken(void)
{
	struct made m = {
		.rom = malloc(GUEST_ROM_SIZE),
		.ram = malloc(EVIDENCE_RAM_SIZE),
	};
	const char *what = "no memory for it";

	if (m.rom && m.ram)
		what = made_mistaken(&m);
	free(m.rom);
	free(m.ram);

	return what;
}
