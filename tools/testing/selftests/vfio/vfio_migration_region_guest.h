/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a program needs to know of the guest in vfio_migration_region_guest.c,
 * and of what it leaves in its memory and registers
 */
#ifndef VFIO_MIGRATION_REGION_GUEST_H
#define VFIO_MIGRATION_REGION_GUEST_H

/*
 * What a round writes stays for this many rounds.  Every use of memory has a
 * page for each of them.
 */
#define GUEST_SLOTS		16
#define GUEST_MEMORY		0x100000
#define GUEST_PAGE		4096
/* Of each page so many bytes are used. */
#define GUEST_BLOCK		1024

/* Where its own data is, and where its stack begins, which grows downwards */
#define GUEST_DATA		0x10000
#define GUEST_STACK		0x80000

/* What it runs is a ROM that ends at 4 GiB. */
#define GUEST_ROM_START		0xffff0000U
#define GUEST_ROM_SIZE		0x10000

enum guest_use {
	RAM,		/* written by the processor */
	FROM_PIN,	/* by the device, with vfio_pin_pages() */
	FROM_RW,	/* by the device, with vfio_dma_rw() */
	/* These are in the device's memory. */
	SCRATCH,	/* written by the processor */
	TO_PIN,		/* by the device, with vfio_pin_pages() */
	TO_RW,		/* by the device, with vfio_dma_rw() */
	GUEST_USES
};

/* Where the page of round @round is, as an offset in memory */
#define GUEST_SLOT(use, round) \
	(GUEST_MEMORY + ((use) * GUEST_SLOTS + (round) % GUEST_SLOTS) * GUEST_PAGE)

/* Every round and use of memory has words of its own; these are successive. */
#define GUEST_WORD(use, round, i) \
	(((unsigned int)(round) * GUEST_USES + (use)) * 2654435761U + (i))

/*
 * What EBP holds from the beginning of a round to that of the next one: the
 * guest uses this register for nothing else.
 */
#define GUEST_MARK(round)	GUEST_WORD(RAM, round, GUEST_BLOCK)

#define GUEST_EXCEPTIONS	32
#define GUEST_VECTOR		0x40	/* of the device's interrupt */

#define GUEST_SELECTOR		8	/* of the code segment */
#define GUEST_GATE		0x8e00	/* present, an interrupt gate */

struct guest_gate {
	unsigned short low;		/* of the handler's address */
	unsigned short selector;
	unsigned short type;
	unsigned short high;
};

/* What is at GUEST_DATA */
struct guest_data {
	struct guest_gate idt[GUEST_VECTOR + 1];
	unsigned int interrupts;
	unsigned int copies;		/* by the device, four in each round */
	unsigned int device;		/* its address in PCI configuration space */
	unsigned int regs;		/* where the device's registers are */
	unsigned int scratch;		/* where its memory is */
	unsigned int scratch_size;
	/* With an IOMMU, else 0 */
	unsigned int iommu;		/* where its registers are */
	unsigned int iommu_flush;	/* and those of them that flush its cache */
	unsigned int mode;		/* of this round */
	unsigned int moves;		/* rounds in which pages were mapped and unmapped */
	unsigned int refused;		/* DMAs that failed as they should */
};

/*
 * Where the machine has an IOMMU, the guest makes the device use it.  All slots are
 * mapped at addresses of the device's own, for good.  Besides, each round maps its
 * slots at three addresses that are the same in all rounds, uses them there, and
 * takes them away; what the device does there afterwards has to fail.
 *
 * The scratch register of the serial port is for the test to write.  At the
 * beginning of a round the guest looks there for what it is to do:
 */
#define GUEST_MODE_PORT		0x3ff
#define GUEST_STAYS		1	/* uses those that are mapped for good */
#define GUEST_EMPTIES		2	/* leaves no address in entries without a page */

/* So many are mapped for good: those of all uses that are in memory. */
#define GUEST_MAPPED_PAGES	(SCRATCH * GUEST_SLOTS)
/* The tables, and pages that are not empty, to have more to migrate */
#define GUEST_TABLES		0x140000
#define GUEST_BALLAST		0x200000
#define GUEST_BALLAST_PAGES	1024

/* What is at this offset in the ROM: addresses */
#define GUEST_ROM_TABLE		0xffe0

struct guest_rom_table {
	unsigned int on_msi;
	unsigned int on_exception;
	unsigned int after_main;	/* what the first call left on the stack */
};

/* The guest as a file, where it has been linked into a program */
extern const char guest_rom[], guest_rom_end[];

#endif /* VFIO_MIGRATION_REGION_GUEST_H */
