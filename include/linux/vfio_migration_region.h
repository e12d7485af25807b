/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the library was while it did version 1 of the protocol alone.  What a
 * driver has to change is in Documentation/driver-api/vfio-migration-region.rst.
 */
#error "include linux/vfio_migration.h; how to port a driver: vfio-migration-region.rst"
