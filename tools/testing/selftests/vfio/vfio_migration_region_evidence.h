/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is left of the guest in vfio_migration_region_guest.c, and whose fault
 * it is that it went wrong
 */
#ifndef VFIO_MIGRATION_REGION_EVIDENCE_H
#define VFIO_MIGRATION_REGION_EVIDENCE_H

#include <stdbool.h>

#define EVIDENCE_RAM_SIZE	0x1000000

struct evidence {
	unsigned int round;		/* the last that the guest has told */
	const unsigned char *rom;	/* GUEST_ROM_SIZE bytes, as it was read */
	const unsigned char *ram;	/* EVIDENCE_RAM_SIZE bytes */
	/* Registers */
	unsigned long long ip;
	unsigned long long sp;
	unsigned long long bp;
	unsigned long long cr0;
	unsigned long long cr2;
	unsigned long long cr3;
};

bool evidence_registers(struct evidence *e, const char *text);
const char *evidence_against_memory(const struct evidence *e);
const char *evidence_against_processor(const struct evidence *e);
const char *evidence_is_ours(const struct evidence *e);
const char *evidence_mistaken(void);

#endif /* VFIO_MIGRATION_REGION_EVIDENCE_H */
