/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The names that linux/vfio_migration.h has had when the migration region was
 * all there was
 */
#ifndef _LINUX_VFIO_MIGRATION_REGION_H
#define _LINUX_VFIO_MIGRATION_REGION_H

#include <linux/vfio_migration.h>

#define VFIO_MIGRATION_REGION_TYPE_LEN		VFIO_MIGRATION_TYPE_LEN
#define VFIO_MIGRATION_REGION_MAX_WINDOW	VFIO_MIGRATION_MAX_WINDOW
#define VFIO_MIGRATION_REGION_DEFAULT_WINDOW	VFIO_MIGRATION_DEFAULT_WINDOW

#define vfio_migration_region			vfio_migration
#define vfio_migration_region_ops		vfio_migration_ops
#define vfio_migration_region_params		vfio_migration_params
#define vfio_migration_region_create		vfio_migration_create
#define vfio_migration_region_destroy		vfio_migration_destroy
#define vfio_migration_region_open		vfio_migration_open
#define vfio_migration_region_release		vfio_migration_release
#define vfio_migration_region_reset		vfio_migration_reset

#endif /* _LINUX_VFIO_MIGRATION_REGION_H */
