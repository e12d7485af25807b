/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a program sees of mscratch, the mediated device in mscratch.c
 *
 * Types, below /sys/class/mdev_bus/mscratch/mdev_supported_types, by the size
 * of the scratch memory: mscratch-64k, mscratch-1m, mscratch-64m.
 *
 * Module parameters, looked at when a device is created:
 *	migration=0	the device has no migration region and no device features
 *	window=BYTES	the largest piece of its data section, 1 to 64 MiB
 *	mmap=0		the data section is not offered for mmap
 *
 * Regions: the configuration space, BAR 0 with the registers below, BAR 2 with
 * the scratch memory, which can be mapped, and behind those of PCI the
 * migration region.  One interrupt, MSI.
 */
#ifndef _SAMPLES_VFIO_MDEV_MSCRATCH_H
#define _SAMPLES_VFIO_MDEV_MSCRATCH_H

#define MSCRATCH_VENDOR_ID		0x1234
#define MSCRATCH_DEVICE_ID		0x5c47

/* Index of the migration region: VFIO_PCI_NUM_REGIONS */
#define MSCRATCH_MIGRATION_REGION	9
#define MSCRATCH_NUM_REGIONS		10

/* Size of BAR 0; that of BAR 2 is the size of the scratch memory */
#define MSCRATCH_BAR0_SIZE		0x1000

/*
 * Registers in BAR 0, little endian.  They are read and written in 4 bytes at
 * a multiple of 4; those of 64 bits also in 8 bytes at a multiple of 8.  Any
 * other access is -EINVAL.  Writes to registers that are read-only, and to
 * what is not named here, are ignored; what is not named here reads 0.
 */
#define MSCRATCH_REG_MAGIC		0x00	/* 32 bits, read-only */
#define MSCRATCH_MAGIC			0x5243534d	/* "MSCR" */
#define MSCRATCH_REG_VERSION		0x04	/* 32 bits, read-only */
#define MSCRATCH_VERSION		1
#define MSCRATCH_REG_SIZE		0x08	/* 64 bits, read-only: bytes of scratch */
#define MSCRATCH_REG_DMA_IOVA		0x10	/* 64 bits: address in the guest */
#define MSCRATCH_REG_DMA_OFFSET		0x18	/* 64 bits: offset in the scratch */
#define MSCRATCH_REG_DMA_LENGTH		0x20	/* 64 bits: bytes */
#define MSCRATCH_REG_DMA_CONTROL	0x28	/* 32 bits */
#define MSCRATCH_REG_DMA_STATUS		0x2c	/* 32 bits, read-only */
#define MSCRATCH_REG_DMA_COUNT		0x30	/* 64 bits, read-only: DMAs that were done */
#define MSCRATCH_REG_DMA_ERROR		0x38	/* 32 bits, read-only: errno of the last, or 0 */
#define MSCRATCH_REGS_SIZE		0x40

/*
 * A write of DMA_CONTROL with START starts a DMA with what the registers then
 * hold.  START reads 0.  It is ignored while a DMA is under way and while the
 * device does not run.  Writes to the other bits and to the DMA registers take
 * effect with the next start.  In the P2P states a DMA that is started is BUSY and
 * waits: it begins when the device runs again, with what the registers hold
 * then, on the device that it was migrated to if there is one.
 *
 * A DMA must lie within the scratch memory and must not be empty, otherwise
 * it ends in ERROR with EINVAL (22) as errno.  Without bus mastering in the
 * configuration space it ends in ERROR with EACCES (13).  A DMA that is under way when the
 * device is stopped is finished first; so DMA_STATUS is not BUSY when the
 * device does not run, unless a DMA waits, and a device that was migrated does
 * not have to go on with one.  A reset ends it.
 */
#define MSCRATCH_DMA_START		0x1
#define MSCRATCH_DMA_TO_GUEST		0x2	/* otherwise guest to scratch */
#define MSCRATCH_DMA_RW			0x4	/* vfio_dma_rw(), otherwise vfio_pin_pages() */
#define MSCRATCH_DMA_IRQ		0x8	/* MSI when it ends, done or error */
#define MSCRATCH_DMA_CONTROL_MASK	0xf

#define MSCRATCH_STATUS_IDLE		0
#define MSCRATCH_STATUS_BUSY		1
#define MSCRATCH_STATUS_DONE		2
#define MSCRATCH_STATUS_ERROR		3

/*
 * What migrates: the scratch memory, DMA_IOVA, DMA_OFFSET, DMA_LENGTH,
 * DMA_CONTROL, DMA_STATUS, DMA_COUNT and DMA_ERROR.  The configuration space is
 * the user's to restore, as with any PCI device.
 */

#endif /* _SAMPLES_VFIO_MDEV_MSCRATCH_H */
