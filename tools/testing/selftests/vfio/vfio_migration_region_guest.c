// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest that vfio_migration_region_qemu_test migrates: a ROM of 64 KiB in
 * the place of a BIOS, and all that runs in that machine.
 *
 * It uses an mscratch device in rounds.  In each it writes to memory, to the
 * device's memory, and lets the device copy between the two by both of its
 * ways to do DMA.  What is written follows from the number of the round, and
 * stays where it is for GUEST_SLOTS rounds.  All of it is checked in the rounds
 * after, so that a page which a migration left behind is seen.
 *
 * Each round ends with a line on the serial port: the last four digits of its
 * number, in hexadecimal.
 * A line that begins with "!" tells what was lost; the guest stops there.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

#include "../../../../samples/vfio-mdev/mscratch.h"
#include "vfio_migration_region_guest.h"

/* The last 256 bytes of the ROM, as an offset in the first code segment */
#define RESET		"0xff00"

#define STRING_(x)	#x
#define STRING(x)	STRING_(x)

/* Where the BARs go, above memory and below the interrupt controllers */
#define BAR_BASE	0xe0000000

#define COM1		0x3f8
#define COM_STATUS	5
#define COM_EMPTY	0x20	/* takes another character */
#define PIC_1		0x20
#define PIC_2		0xa0

#define PCI_ADDRESS	0xcf8
#define PCI_DATA	0xcfc
#define PCI_COMMAND	0x04
#define PCI_COMMAND_ON	0x6	/* memory, bus master */
#define PCI_BARS	0x10
#define PCI_CAPS	0x34
#define PCI_CAP_MSI	0x05
#define PCI_MSI_ENABLE	0x10000

#define APIC		0xfee00000
#define APIC_EOI	0xb0
#define APIC_SPURIOUS	0xf0
#define APIC_ON		0x1ff

/* A remapping unit of VT-d, where QEMU has it, and its registers */
#define IOMMU		0xfed90000
#define IOMMU_VERSION	0x00
#define IOMMU_MAJOR	0xf0
#define IOMMU_MAJOR_1	0x10
#define IOMMU_CAP	0x08
#define IOMMU_CACHING	0x80	/* is to be told of new entries as well */
#define IOMMU_39_BITS	0x200	/* tables of three levels */
#define IOMMU_EXT_CAP	0x10
#define IOMMU_COMMAND	0x18
#define IOMMU_STATUS	0x1c
#define IOMMU_TRANSLATE	0x80000000
#define IOMMU_SET_ROOT	0x40000000
#define IOMMU_ROOT	0x20
/* The upper half of each register starts what is in both halves */
#define IOMMU_CONTEXTS	0x2c
#define IOMMU_ALL_CONTEXTS	0xa0000000
#define IOMMU_FLUSH	0x0c
#define IOMMU_FLUSH_ALL	0x90000000
#define IOMMU_FLUSH_PAGES	0xb0000000
#define IOMMU_BUSY	0x80000000

/* Its tables: each is a page, with entries of 64 bits in one or two halves */
#define TABLE(n)	(GUEST_TABLES + (n) * GUEST_PAGE)
#define ROOTS		0
#define CONTEXTS	1
#define LEVEL_3		2
#define LEVEL_2		3
#define LEVEL_1		4
#define ENTRY_PRESENT	1
#define ENTRY_READ	1
#define ENTRY_WRITE	2
#define CONTEXT_39_BITS	1
#define DOMAIN		7

/*
 * What the device calls memory: higher than any of the guest's, and all in one
 * table of the last level.  Slots come there in the reverse order.
 */
#define IOVA_HIGH	0x12
#define IOVA_LOW	0x34400000
#define IOVA(page)	(IOVA_LOW + (page) * GUEST_PAGE)
#define PAGE_STAYS(use, round) \
	(GUEST_MAPPED_PAGES - 1 - (use) * GUEST_SLOTS - (round) % GUEST_SLOTS)
#define PAGE_MOVES(use)	(256 + (use))
#define PAGES_MOVE_ORDER	2	/* they are within four */

#define EPERM		1
#define EINVAL		22

#define HLT		0xf4

/* The linker puts it at GUEST_DATA. */
static struct guest_data data;

/*
 * In no other place than a register that KVM itself saves and restores: see
 * vfio_migration_region_evidence.c for what it tells.
 */
register u32 mark asm("ebp");

/*
 * The processor starts in real mode, 16 bytes below 4 GiB, with a code segment
 * that begins with the ROM.  The linker puts this section where that is.
 */
asm("	.section .reset, \"ax\"\n"
"	.code16\n"
"	.globl	start\n"
"start:	cli\n"
"	cld\n"
"	lgdtl	%cs:" RESET " + gdtr - start\n"
"	movl	%cr0, %eax\n"
"	andl	$0x9fffffff, %eax\n"	/* caches on */
"	orl	$1, %eax\n"
"	movl	%eax, %cr0\n"
"	ljmpl	$8, $protected\n"
"	.code32\n"
"protected:\n"
"	movl	$16, %eax\n"
"	movl	%eax, %ds\n"
"	movl	%eax, %es\n"
"	movl	%eax, %ss\n"
"	movl	$" STRING(GUEST_STACK) ", %esp\n"
"	xorl	%ebp, %ebp\n"
"	call	guest_main\n"
"after_main:\n"
"	.balign	8\n"
"gdt:	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n"
"gdtr:	.word	gdtr - gdt - 1\n"
"	.long	gdt\n"
"	.org	0xe0\n"			/* struct guest_rom_table */
"	.long	on_msi, on_exception, after_main\n"
"	.org	0xf0\n"
"	.code16\n"
"	jmp	start\n"
"	.org	0x100\n"
"	.code32\n"
"	.text\n");

static void out8(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u8 in8(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void out32(u16 port, u32 value)
{
	asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static u32 in32(u16 port)
{
	u32 value;

	asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* These are not left out, and not done in another order. */
static u32 load(const void *from)
{
	u32 value;

	asm volatile("movl %1, %0" : "=r"(value) : "m"(*(const u32 *)from)
		     : "memory");
	return value;
}

static void store(void *to, u32 value)
{
	asm volatile("movl %1, %0" : "=m"(*(u32 *)to) : "r"(value) : "memory");
}

static void say_char(char c)
{
	while (!(in8(COM1 + COM_STATUS) & COM_EMPTY))
		;
	out8(COM1, c);
}

static void say(const char *text)
{
	while (*text)
		say_char(*text++);
}

static void say_hex(u32 value, int digits)
{
	int shift;

	for (shift = 4 * digits - 4; shift >= 0; shift -= 4)
		say_char("0123456789abcdef"[value >> shift & 15]);
}

/* From here there is no way back. */
static void lost(const char *what, u32 number, u32 expected, u32 seen)
{
	asm volatile("cli");
	say("! ");
	say(what);
	say(" ");
	say_hex(number, 8);
	say(": expected ");
	say_hex(expected, 8);
	say(", saw ");
	say_hex(seen, 8);
	say("\n");
	for (;;)
		asm volatile("hlt");
}

static u32 config_read(u32 offset)
{
	out32(PCI_ADDRESS, data.device | (offset & ~3));
	return in32(PCI_DATA);
}

static void config_write(u32 offset, u32 value)
{
	out32(PCI_ADDRESS, data.device | offset);
	out32(PCI_DATA, value);
}

/* Give BAR number @bar an address at or above *@next. */
static u32 bar_place(int bar, u32 *next, u32 *size)
{
	u32 offset = PCI_BARS + 4 * bar, at;

	config_write(offset, ~0U);
	*size = -(config_read(offset) & ~15U);
	if (!*size)
		lost("no BAR", bar, 1, 0);
	at = (*next + *size - 1) & -*size;
	config_write(offset, at);
	*next = at + *size;
	return at;
}

static void device_find(void)
{
	u32 slot, next = BAR_BASE, size, cap;

	for (slot = 0; slot < 32; slot++) {
		data.device = 1U << 31 | slot << 11;
		if (config_read(0) == (MSCRATCH_DEVICE_ID << 16 |
				       MSCRATCH_VENDOR_ID))
			break;
	}
	if (slot == 32)
		lost("device", 0, 1, 0);
	data.regs = bar_place(0, &next, &size);
	data.scratch = bar_place(2, &next, &data.scratch_size);

	cap = config_read(PCI_CAPS) & 0xfc;
	while (cap && (config_read(cap) & 0xff) != PCI_CAP_MSI)
		cap = config_read(cap) >> 8 & 0xfc;
	if (!cap)
		lost("MSI capability", 0, 1, 0);
	config_write(cap + 4, APIC);
	if (config_read(cap) >> 16 & 0x80) {	/* 64-bit addresses */
		config_write(cap + 8, 0);
		config_write(cap + 12, GUEST_VECTOR);
	} else {
		config_write(cap + 8, GUEST_VECTOR);
	}
	config_write(cap, config_read(cap) | PCI_MSI_ENABLE);
	config_write(PCI_COMMAND, PCI_COMMAND_ON);
}

struct frame {
	u32 ip;
};

/*
 * Nothing comes between STI and the instruction behind it, so that HLT cannot
 * miss what it waits for.  An emulated SVM forgets that when it leaves the
 * guest between the two, as QEMU's does: its VMRUN does not look at the
 * interrupt shadow that its #VMEXIT has saved.  A guest that is about to halt
 * does not do so after the interrupt.
 */
__attribute__((interrupt)) void on_msi(struct frame *f)
{
	if (*(const u8 *)f->ip == HLT)
		f->ip++;
	data.interrupts++;
	store((void *)(APIC + APIC_EOI), 0);
}

__attribute__((interrupt)) void on_exception(struct frame *f)
{
	lost("exception", 0, 0, f->ip);
}

static void gate_set(int vector, void *handler)
{
	struct guest_gate *g = &data.idt[vector];

	g->low = (u32)handler;
	g->high = (u32)handler >> 16;
	g->selector = GUEST_SELECTOR;
	g->type = GUEST_GATE;
}

static void interrupts_on(void)
{
	u32 idt = (u32)data.idt;
	u16 idtr[] = { sizeof(data.idt) - 1, idt, idt >> 16 };
	int i;

	for (i = 0; i < GUEST_EXCEPTIONS; i++)
		gate_set(i, on_exception);
	gate_set(GUEST_VECTOR, on_msi);
	/* The old interrupt controllers stay silent */
	out8(PIC_1 + 1, 0xff);
	out8(PIC_2 + 1, 0xff);
	store((void *)(APIC + APIC_SPURIOUS), APIC_ON);
	asm volatile("lidt %0; sti" : : "m"(idtr));
}

static u32 *slot(enum guest_use use, u32 round)
{
	u32 s = data.scratch +
		round % GUEST_SLOTS * (data.scratch_size / GUEST_SLOTS);

	switch (use) {
	case SCRATCH:
		return (u32 *)s;
	case TO_PIN:
		return (u32 *)(s + GUEST_BLOCK);
	case TO_RW:
		return (u32 *)(s + 2 * GUEST_BLOCK);
	default:
		return (u32 *)GUEST_SLOT(use, round);
	}
}

static void fill(enum guest_use use, u32 round)
{
	u32 *p = slot(use, round);
	u32 i;

	for (i = 0; i < GUEST_BLOCK / 4; i++)
		store(&p[i], GUEST_WORD(use, round, i));
}

/* The slot that was filled in @round has the words that use @from put there. */
static void check(enum guest_use use, enum guest_use from, u32 round)
{
	static const char * const names[] = {
		[RAM] = "memory",
		[FROM_PIN] = "memory, DMA by vfio_pin_pages",
		[FROM_RW] = "memory, DMA by vfio_dma_rw",
		[TO_PIN] = "device memory, DMA by vfio_pin_pages",
		[TO_RW] = "device memory, DMA by vfio_dma_rw",
		[SCRATCH] = "device memory",
	};
	u32 *p = slot(use, round);
	u32 i;

	for (i = 0; i < GUEST_BLOCK / 4; i++)
		if (load(&p[i]) != GUEST_WORD(from, round, i))
			lost(names[use], round, GUEST_WORD(from, round, i),
			     load(&p[i]));
}

static u32 reg_read(u32 offset)
{
	return load((void *)(data.regs + offset));
}

static void reg_write(u32 offset, u32 value)
{
	store((void *)(data.regs + offset), value);
}

static u32 iommu_read(u32 offset)
{
	return load((void *)(IOMMU + offset));
}

static void iommu_write(u32 offset, u32 value)
{
	store((void *)(IOMMU + offset), value);
}

static void iommu_command(u32 command)
{
	iommu_write(IOMMU_COMMAND, command);
	while (!(iommu_read(IOMMU_STATUS) & command))
		;
}

static void iommu_invalidate(u32 offset, u32 command)
{
	iommu_write(offset - 4, 0);
	iommu_write(offset, command);
	while (iommu_read(offset) & IOMMU_BUSY)
		;
}

static void entry_set(u32 table, u32 half, u32 value)
{
	store((u32 *)TABLE(table) + half, value);
}

/* Let page @page of the device's be this one, if it is one for @access. */
static void page_set(u32 page, u32 memory, u32 access)
{
	entry_set(LEVEL_1, 2 * page, memory | access);
}

/* As the device uses it */
static u32 access(enum guest_use use)
{
	return use == RAM ? ENTRY_READ : ENTRY_READ | ENTRY_WRITE;
}

static void iommu_on(void)
{
	u32 devfn = data.device >> 8 & 0xff, page, round;
	enum guest_use use;

	if ((iommu_read(IOMMU_VERSION) & IOMMU_MAJOR) != IOMMU_MAJOR_1)
		return;
	if (!(iommu_read(IOMMU_CAP) & IOMMU_CACHING))
		lost("caching mode", 0, 1, 0);
	if (!(iommu_read(IOMMU_CAP) & IOMMU_39_BITS))
		lost("three levels", 0, 1, 0);

	for (page = 0; page < GUEST_BALLAST_PAGES; page++)
		store((void *)(GUEST_BALLAST + page * GUEST_PAGE), 1);

	/* Those for bus 0, this device of all */
	entry_set(ROOTS, 0, TABLE(CONTEXTS) | ENTRY_PRESENT);
	entry_set(CONTEXTS, 4 * devfn, TABLE(LEVEL_3) | ENTRY_PRESENT);
	entry_set(CONTEXTS, 4 * devfn + 2, DOMAIN << 8 | CONTEXT_39_BITS);
	entry_set(LEVEL_3, 2 * (IOVA_HIGH << 2 | IOVA_LOW >> 30),
		  TABLE(LEVEL_2) | ENTRY_READ | ENTRY_WRITE);
	entry_set(LEVEL_2, 2 * (IOVA_LOW >> 21 & 511),
		  TABLE(LEVEL_1) | ENTRY_READ | ENTRY_WRITE);
	for (use = RAM; use < SCRATCH; use++)
		for (round = 0; round < GUEST_SLOTS; round++)
			page_set(PAGE_STAYS(use, round), (u32)slot(use, round),
				 access(use));

	iommu_write(IOMMU_ROOT, TABLE(ROOTS));
	iommu_write(IOMMU_ROOT + 4, 0);
	iommu_command(IOMMU_SET_ROOT);
	iommu_invalidate(IOMMU_CONTEXTS, IOMMU_ALL_CONTEXTS);
	/* These are not at the same place in all units. */
	data.iommu_flush = (iommu_read(IOMMU_EXT_CAP) >> 8 & 0x3ff) * 16;
	iommu_invalidate(data.iommu_flush + IOMMU_FLUSH, IOMMU_FLUSH_ALL);
	iommu_command(IOMMU_TRANSLATE);

	data.iommu = IOMMU;
	reg_write(MSCRATCH_REG_DMA_IOVA + 4, IOVA_HIGH);
}

static void iommu_flush_moved(void)
{
	iommu_write(data.iommu_flush, IOVA(PAGE_MOVES(0)) | PAGES_MOVE_ORDER);
	iommu_write(data.iommu_flush + 4, IOVA_HIGH);
	iommu_invalidate(data.iommu_flush + IOMMU_FLUSH, IOMMU_FLUSH_PAGES | DOMAIN);
}

static u32 moves(void)
{
	return data.iommu && !(data.mode & GUEST_STAYS);
}

static void pages_map(u32 round)
{
	enum guest_use use;

	for (use = RAM; use < SCRATCH; use++)
		page_set(PAGE_MOVES(use), (u32)slot(use, round), access(use));
	iommu_flush_moved();
}

/*
 * What else is in an entry without access means nothing.  But while it migrates,
 * QEMU 7.2 asks VFIO whether the page that it unmaps is dirty, and marks that one
 * whose address it finds here.
 */
static void pages_unmap(u32 round)
{
	enum guest_use use;

	for (use = RAM; use < SCRATCH; use++)
		page_set(PAGE_MOVES(use), data.mode & GUEST_EMPTIES ? 0 :
			 (u32)slot(use, round), 0);
	iommu_flush_moved();
	data.moves++;
}

/* What the device calls a slot */
static u32 address(enum guest_use use, u32 round)
{
	if (!data.iommu)
		return (u32)slot(use, round);
	return IOVA(moves() ? PAGE_MOVES(use) : PAGE_STAYS(use, round));
}

/* Let the device copy to or from @iova, and wait until it says how that ended. */
static u32 dma(u32 how, u32 iova, const void *in_scratch)
{
	u32 seen = load(&data.interrupts), status;

	reg_write(MSCRATCH_REG_DMA_IOVA, iova);
	reg_write(MSCRATCH_REG_DMA_OFFSET, (u32)in_scratch - data.scratch);
	reg_write(MSCRATCH_REG_DMA_CONTROL,
		  MSCRATCH_DMA_START | MSCRATCH_DMA_IRQ | how);
	do {
		/* There may be one interrupt more than DMAs, never one less */
		asm volatile("cli");
		while (load(&data.interrupts) == seen)
			asm volatile("sti; hlt; cli");
		seen = load(&data.interrupts);
		asm volatile("sti");
		status = reg_read(MSCRATCH_REG_DMA_STATUS);
	} while (status == MSCRATCH_STATUS_BUSY);

	return status;
}

/* Let it copy a slot. */
static void copy(u32 how, enum guest_use memory, enum guest_use in_scratch, u32 round)
{
	u32 status = dma(how, address(memory, round), slot(in_scratch, round));

	if (status != MSCRATCH_STATUS_DONE)
		lost("DMA", how, MSCRATCH_STATUS_DONE, status);
	data.copies++;
}

/* Try to let it copy where it must not. */
static void refused(u32 how, u32 page, enum guest_use in_scratch, u32 round, u32 error)
{
	u32 status = dma(how, IOVA(page), slot(in_scratch, round));

	if (status != MSCRATCH_STATUS_ERROR)
		lost("refusal of DMA", page, MSCRATCH_STATUS_ERROR, status);
	if (reg_read(MSCRATCH_REG_DMA_ERROR) != error)
		lost("its error", page, error, reg_read(MSCRATCH_REG_DMA_ERROR));
	data.refused++;
}

static void round_run(u32 n)
{
	u32 old;

	mark = GUEST_MARK(n);
	/* What the rounds before have left */
	for (old = n - GUEST_SLOTS; n > GUEST_SLOTS && old != n; old++) {
		check(RAM, RAM, old);
		check(FROM_PIN, SCRATCH, old);
		check(FROM_RW, SCRATCH, old);
	}
	if (n > GUEST_SLOTS) {
		/* As these accesses may leave the guest, not all each time */
		check(SCRATCH, SCRATCH, n - GUEST_SLOTS);
		check(TO_PIN, RAM, n - GUEST_SLOTS);
		check(TO_RW, RAM, n - GUEST_SLOTS);
	}
	if (reg_read(MSCRATCH_REG_DMA_COUNT) != data.copies)
		lost("register DMA_COUNT", 0, data.copies,
		     reg_read(MSCRATCH_REG_DMA_COUNT));

	fill(RAM, n);
	fill(SCRATCH, n);
	if (data.iommu)
		data.mode = in8(GUEST_MODE_PORT);
	if (moves())
		pages_map(n);
	copy(MSCRATCH_DMA_TO_GUEST, FROM_PIN, SCRATCH, n);
	copy(MSCRATCH_DMA_TO_GUEST | MSCRATCH_DMA_RW, FROM_RW, SCRATCH, n);
	copy(0, RAM, TO_PIN, n);
	copy(MSCRATCH_DMA_RW, RAM, TO_RW, n);
	if (moves())
		pages_unmap(n);
	if (!data.iommu)
		return;
	refused(MSCRATCH_DMA_TO_GUEST, PAGE_MOVES(FROM_PIN), TO_PIN, n, EINVAL);
	refused(MSCRATCH_DMA_RW, PAGE_MOVES(RAM), TO_RW, n, EINVAL);
	refused(MSCRATCH_DMA_TO_GUEST, PAGE_STAYS(RAM, n), TO_PIN, n, EPERM);
}

void guest_main(void)
{
	u32 n;

	device_find();
	interrupts_on();
	iommu_on();
	/* For good: what the other registers need not be told, they keep. */
	reg_write(MSCRATCH_REG_DMA_LENGTH, GUEST_BLOCK);
	for (n = 1; ; n++) {
		round_run(n);
		say_hex(n, 4);
		say("\n");
	}
}
