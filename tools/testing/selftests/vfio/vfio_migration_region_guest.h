/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a program needs to know of the guest in vfio_migration_region_guest.c
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

/* The guest as a file, where it has been linked into a program */
extern const char guest_rom[], guest_rom_end[];

#endif /* VFIO_MIGRATION_REGION_GUEST_H */
